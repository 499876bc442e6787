import type { VNode } from 'preact';
import { useState } from 'preact/hooks';
import { change } from '../app/library';
import { server } from '../app/server';
import { useSelected } from '../base/use-store';
import type { Conversation } from '../chat/conversation';
import {
  countChanged,
  defaultSettings,
  inRange,
  mostStops,
  ranges,
  thinkingChoices,
  type NumberSetting,
  type Settings,
} from '../chat/settings';
import { useText } from '../text/language';
import type { Strings } from '../text/strings';
import { Choice } from './choice';
import { IconButton } from './icon-button';
import { SidePanel } from './side-panel';

/** How this conversation asks: system prompt, thinking, sampling. What is not set, the server decides. */
export function SettingsPanel({ conversation }: { conversation: Conversation }): VNode {
  const { t } = useText();
  const canThink = useSelected(server, (now) => now.thinking) !== false;
  const { settings } = conversation;
  const set = (changed: Partial<Settings>): void =>
    change(conversation.id, (now) => ({ ...now, settings: { ...now.settings, ...changed } }));
  const thinkingNames = { auto: t.thinkingAuto, on: t.thinkingOn, off: t.thinkingOff };
  const numbers = { settings, set };
  return (
    <SidePanel title={t.settings} note={t.settingsOfConversation}>
      <label class="field">
        <span class="field-name">{t.systemPrompt}</span>
        <textarea
          rows={4}
          value={settings.system}
          placeholder={t.systemPlaceholder}
          onInput={(event) => set({ system: event.currentTarget.value })}
        />
      </label>
      {canThink && (
        <Choice
          name={t.settingThinking}
          options={thinkingChoices.map((choice) => [choice, thinkingNames[choice]])}
          value={settings.thinking}
          onChange={(thinking) => set({ thinking })}
        />
      )}
      <Slider setting="temperature" {...numbers} />
      <Slider setting="topP" {...numbers} />
      <Slider setting="presencePenalty" {...numbers} />
      <Slider setting="frequencyPenalty" {...numbers} />
      <NumberField setting="maxTokens" {...numbers} />
      <NumberField setting="seed" {...numbers} />
      <StopField key={conversation.id} stop={settings.stop} onChange={(stop) => set({ stop })} />
      <button
        type="button"
        class="button"
        disabled={countChanged(settings) === 0}
        onClick={() => set(defaultSettings)}
      >
        {t.resetAll}
      </button>
    </SidePanel>
  );
}

interface NumberProps {
  setting: NumberSetting;
  settings: Settings;
  set: (changed: Partial<Settings>) => void;
}

function wordsFor(setting: NumberSetting, t: Strings): { name: string; hint: string } {
  return { name: t[setting], hint: t[`${setting}Hint`] };
}

function Slider({ setting, settings, set }: NumberProps): VNode {
  const { t } = useText();
  const { name, hint } = wordsFor(setting, t);
  const { least, most, step, usual } = ranges[setting];
  const value = settings[setting];
  return (
    <div class={`field ${value === null ? 'field-default' : ''}`}>
      <span class="field-name">
        <label for={`setting-${setting}`}>{name}</label>
        <output for={`setting-${setting}`}>{value ?? t.modelDefault}</output>
        <IconButton
          icon="reset"
          label={t.resetOne(name)}
          disabled={value === null}
          onClick={() => set({ [setting]: null })}
        />
      </span>
      <input
        id={`setting-${setting}`}
        type="range"
        min={least}
        max={most}
        step={step}
        value={value ?? usual}
        aria-describedby={`hint-${setting}`}
        aria-valuetext={value === null ? t.modelDefault : String(value)}
        onInput={(event) => set({ [setting]: inRange(setting, event.currentTarget.valueAsNumber) })}
      />
      <small id={`hint-${setting}`}>{hint}</small>
    </div>
  );
}

function NumberField({ setting, settings, set }: NumberProps): VNode {
  const { t } = useText();
  const { name, hint } = wordsFor(setting, t);
  const { least, most, step } = ranges[setting];
  return (
    <label class="field">
      <span class="field-name">{name}</span>
      <input
        type="number"
        inputMode="numeric"
        min={least}
        max={most}
        step={step}
        value={settings[setting] ?? ''}
        placeholder={t.modelDefault}
        aria-describedby={`hint-${setting}`}
        // Not at each key: "1" on the way to "100" may be out of range already.
        onChange={(event) => {
          const value = inRange(setting, event.currentTarget.value === '' ? null : event.currentTarget.valueAsNumber);
          set({ [setting]: value });
          event.currentTarget.value = value === null ? '' : String(value);
        }}
      />
      <small id={`hint-${setting}`}>{hint}</small>
    </label>
  );
}

/** Keeps what is typed, with its empty lines, and passes on the lines that say something. */
function StopField({ stop, onChange }: { stop: readonly string[]; onChange: (stop: string[]) => void }): VNode {
  const { t } = useText();
  const [typed, setTyped] = useState(stop.join('\n'));
  const linesOf = (text: string): string[] => text.split('\n').filter((line) => line !== '').slice(0, mostStops);
  // A reset from outside empties it.
  const isOwn = linesOf(typed).join('\n') === stop.join('\n');
  return (
    <label class="field">
      <span class="field-name">{t.stopStrings}</span>
      <textarea
        rows={2}
        spellcheck={false}
        value={isOwn ? typed : stop.join('\n')}
        aria-describedby="hint-stop"
        onInput={(event) => {
          setTyped(event.currentTarget.value);
          onChange(linesOf(event.currentTarget.value));
        }}
      />
      <small id="hint-stop">{t.stopStringsHint}</small>
    </label>
  );
}
