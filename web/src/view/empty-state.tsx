import type { VNode } from 'preact';
import { modelOf, send } from '../app/answers';
import { change } from '../app/library';
import { server } from '../app/server';
import { useStore } from '../base/use-store';
import type { Conversation } from '../chat/conversation';
import { countChanged, defaultSettings, type Settings } from '../chat/settings';
import { useText } from '../text/language';
import type { Strings } from '../text/strings';
import { Mark } from './icons';

interface Example {
  title: keyof Strings & `example${string}`;
  /** English in every language: the bundled model knows no other. */
  prompt: string;
  /** What it takes for a small model to get it right; the settings show it. */
  settings: Partial<Settings>;
}

/**
 * What a tiny model can do (docs/fathom-tiny.md), in the words in which it was taught. At the API's default temperature of 1
 * it adds wrongly half of the time; it thinks about sums and nothing else.
 */
const examples: readonly Example[] = [
  { title: 'exampleAdd', prompt: 'What is 17 + 25?', settings: { temperature: 0, thinking: 'on' } },
  { title: 'exampleStory', prompt: 'Tell me a short story about a fox.', settings: { temperature: 0.6 } },
  {
    title: 'exampleRecall',
    prompt: 'The code of the blue box is 4071. The code of the green box is 8823. What is the code of the blue box?',
    settings: { temperature: 0 },
  },
  { title: 'exampleClass', prompt: 'What is a lantern?', settings: { temperature: 0 } },
];

/** A conversation without messages: who is there, and what one could ask. */
export function EmptyState({ conversation }: { conversation: Conversation }): VNode {
  const { t } = useText();
  const { reach, thinking } = useStore(server);
  const model = modelOf(conversation);
  const ask = ({ prompt, settings }: Example): void => {
    // What the user has set already stays.
    if (countChanged(conversation.settings) === 0) {
      const wanted = thinking ? settings : { ...settings, thinking: defaultSettings.thinking };
      change(conversation.id, (now) => ({ ...now, settings: { ...now.settings, ...wanted } }));
    }
    send(conversation.id, prompt);
  };
  return (
    <div class="empty">
      <Mark />
      <h2>{t.welcome}</h2>
      <p class="empty-note">{reach === 'there' && model !== '' ? t.welcomeNote(model) : ''}</p>
      <ul class="examples">
        {examples.map((example) => (
          <li key={example.title}>
            <button type="button" class="example" disabled={reach !== 'there'} onClick={() => ask(example)}>
              <b>{t[example.title]}</b>
              <span lang="en">{example.prompt}</span>
            </button>
          </li>
        ))}
      </ul>
    </div>
  );
}
