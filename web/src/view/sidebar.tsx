import type { TargetedKeyboardEvent, TargetedMouseEvent, VNode } from 'preact';
import { useLayoutEffect, useRef, useState } from 'preact/hooks';
import { answering, isAnswering } from '../app/answers';
import { deleteConversation } from '../app/delete';
import { change, library } from '../app/library';
import { addressOf, show } from '../app/route';
import { exportOneAsJson, exportOneAsMarkdown } from '../app/transfer';
import { dialog, drawer } from '../app/ui';
import { memo } from '../base/memo';
import { useSelected, useStore } from '../base/use-store';
import { ageOf, type Age } from '../chat/age';
import type { Conversation } from '../chat/conversation';
import { search, type Found } from '../chat/search';
import { useText } from '../text/language';
import { Icon, Mark } from './icons';
import { IconButton } from './icon-button';
import { Menu } from './menu';
import { toggleSidebar } from './toggle-sidebar';

export const searchBoxId = 'search';

/** The list of conversations, and the way to everything that belongs to no single one. */
export function Sidebar({ shown }: { shown: string }): VNode {
  const { t } = useText();
  const [wanted, setWanted] = useState('');
  const conversations = useStore(library);
  const found = search(conversations ?? [], wanted);
  return (
    <aside class="sidebar" aria-label={t.conversations}>
      <div class="sidebar-head">
        <Mark />
        <span class="brand">Fathom</span>
        <IconButton icon="sidebar" label={t.closeSidebar} onClick={toggleSidebar} />
      </div>
      <button type="button" class="new-conversation" onClick={startNew}>
        <Icon name="plus" />
        {t.newConversation}
      </button>
      <label class="search">
        <Icon name="search" />
        <input
          id={searchBoxId}
          type="search"
          value={wanted}
          placeholder={t.search}
          aria-label={t.searchConversations}
          onInput={(event) => setWanted(event.currentTarget.value)}
        />
      </label>
      <nav class="conversations" aria-label={t.conversations}>
        {conversations?.length === 0 && <p class="sidebar-note">{t.noConversations}</p>}
        {wanted !== '' && found.length === 0 && <p class="sidebar-note">{t.noMatches}</p>}
        <Groups found={found} shown={shown} />
      </nav>
      <div class="sidebar-foot">
        <button type="button" class="preferences-button" onClick={() => openDialog('preferences')}>
          <Icon name="toggles" />
          {t.preferences}
        </button>
        <IconButton icon="keyboard" label={t.help} onClick={() => openDialog('help')} />
      </div>
    </aside>
  );
}

function openDialog(which: 'preferences' | 'help'): void {
  drawer.set(false);
  dialog.set(which);
}

export function startNew(): void {
  drawer.set(false);
  show(null);
}

function Groups({ found, shown }: { found: readonly Found[]; shown: string }): VNode[] {
  const { t } = useText();
  const now = Date.now();
  const groups = new Map<Age, Found[]>();
  for (const one of found) {
    const age = ageOf(one.conversation.updated, now);
    groups.set(age, [...(groups.get(age) ?? []), one]);
  }
  return [...groups].map(([age, members]) => (
    <section key={age}>
      <h2>{t[age]}</h2>
      <ul>
        {members.map(({ conversation, excerpt }) => (
          <Row key={conversation.id} conversation={conversation} excerpt={excerpt} isShown={conversation.id === shown} />
        ))}
      </ul>
    </section>
  ));
}

interface RowProps {
  conversation: Conversation;
  excerpt: string;
  isShown: boolean;
}

const Row = memo(function Row({ conversation, excerpt, isShown }: RowProps): VNode {
  const { t } = useText();
  const [isRenamed, setRenamed] = useState(false);
  const isBusy = useSelected(answering, () => isAnswering(conversation.id));
  const open = (event: TargetedMouseEvent<HTMLAnchorElement>): void => {
    // With a modifier it is the browser's: another tab, another window.
    if (event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
    event.preventDefault();
    drawer.set(false);
    show(conversation.id);
  };
  if (isRenamed) {
    return (
      <li class="row">
        <NameEditor conversation={conversation} onEnd={() => setRenamed(false)} />
      </li>
    );
  }
  return (
    <li class={`row ${isShown ? 'row-shown' : ''}`}>
      <a href={addressOf(conversation.id)} aria-current={isShown ? 'page' : undefined} onClick={open}>
        <span class="row-title" dir="auto">
          {conversation.title}
        </span>
        {excerpt !== '' && <span class="row-excerpt">{excerpt}</span>}
      </a>
      {isBusy && <span class="pulse" role="img" aria-label={t.answering} />}
      <Menu
        label={t.actionsFor(conversation.title)}
        items={[
          { label: t.rename, run: () => setRenamed(true) },
          { label: t.exportMarkdown, run: () => exportOneAsMarkdown(conversation) },
          { label: t.exportJson, run: () => exportOneAsJson(conversation) },
          { label: t.delete, run: () => void deleteConversation(conversation.id), isDangerous: true },
        ]}
      />
    </li>
  );
});

function NameEditor({ conversation, onEnd }: { conversation: Conversation; onEnd: () => void }): VNode {
  const { t } = useText();
  const input = useRef<HTMLInputElement>(null);
  useLayoutEffect(() => input.current?.select(), []);
  const ended = useRef(false);
  const end = (name: string): void => {
    // Taking the focused input away may count as leaving it: once is enough.
    if (ended.current) return;
    ended.current = true;
    const title = name.trim();
    if (title !== '' && title !== conversation.title) {
      change(conversation.id, (now) => ({ ...now, title }));
    }
    onEnd();
  };
  const onKeyDown = (event: TargetedKeyboardEvent<HTMLInputElement>): void => {
    if (event.isComposing) return;
    if (event.key === 'Enter') end(event.currentTarget.value);
    if (event.key === 'Escape') {
      event.preventDefault();
      end('');
    }
  };
  return (
    <input
      ref={input}
      class="name-editor"
      type="text"
      maxLength={200}
      defaultValue={conversation.title}
      aria-label={t.newName}
      onKeyDown={onKeyDown}
      onBlur={(event) => end(event.currentTarget.value)}
    />
  );
}
