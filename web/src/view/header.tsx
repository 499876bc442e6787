import type { VNode } from 'preact';
import { modelOf } from '../app/answers';
import { change } from '../app/library';
import { server } from '../app/server';
import { panel, togglePanel } from '../app/ui';
import { useStore } from '../base/use-store';
import type { Conversation } from '../chat/conversation';
import { countChanged } from '../chat/settings';
import { useText } from '../text/language';
import { IconButton } from './icon-button';
import { startNew } from './sidebar';
import { toggleSidebar } from './toggle-sidebar';

/** The bar above a conversation: its title, its model, its settings. */
export function Header({ conversation, hasSidebar }: { conversation: Conversation; hasSidebar: boolean }): VNode {
  const { t } = useText();
  const open = useStore(panel);
  const changed = countChanged(conversation.settings);
  return (
    <header class="header">
      {!hasSidebar && <IconButton icon="sidebar" label={t.openSidebar} onClick={toggleSidebar} />}
      {!hasSidebar && <IconButton icon="plus" label={t.newConversation} onClick={startNew} />}
      <div class="header-names">
        <h1 dir="auto">{conversation.title || t.newConversation}</h1>
        <ModelChoice conversation={conversation} />
      </div>
      <IconButton icon="pulse" label={t.status} pressed={open === 'status'} onClick={() => togglePanel('status')} />
      <span class="with-count">
        <IconButton icon="sliders" label={t.settings} pressed={open === 'settings'} onClick={() => togglePanel('settings')} />
        {changed > 0 && <span class="count">{changed}</span>}
      </span>
    </header>
  );
}

function ModelChoice({ conversation }: { conversation: Conversation }): VNode | null {
  const { t } = useText();
  const { models } = useStore(server);
  const model = modelOf(conversation);
  if (model === '') return null;
  if (models.length < 2) return <span class="model-name">{model}</span>;
  return (
    <select
      class="model-name"
      aria-label={t.model}
      value={model}
      onChange={(event) => {
        const chosen = event.currentTarget.value;
        change(conversation.id, (now) => ({ ...now, model: chosen }));
      }}
    >
      {models.map((name) => (
        <option key={name} value={name}>
          {name}
        </option>
      ))}
    </select>
  );
}
