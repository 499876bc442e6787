import type { VNode } from 'preact';
import { useEffect, useLayoutEffect } from 'preact/hooks';
import { useCurrentConversation } from '../app/current';
import { library } from '../app/library';
import { server } from '../app/server';
import { dialog, drawer, panel } from '../app/ui';
import { useSelected, useStore } from '../base/use-store';
import { preferences } from '../storage/preferences';
import { useText } from '../text/language';
import { Banner } from './banner';
import { Composer } from './composer';
import { Header } from './header';
import { HelpDialog } from './help-dialog';
import { KeyDialog } from './key-dialog';
import { PreferencesDialog } from './preferences-dialog';
import { SettingsPanel } from './settings-panel';
import { Sidebar } from './sidebar';
import { StatusPanel } from './status-panel';
import { Thread } from './thread';
import { Announcer, Toasts } from './toasts';
import { useNarrow } from './use-narrow';

export function App(): VNode | null {
  const { t } = useText();
  const conversation = useCurrentConversation();
  const isLoaded = useSelected(library, (now) => now !== null);
  const prefersSidebar = useSelected(preferences, (now) => now.sidebar);
  const isDrawn = useStore(drawer);
  const openPanel = useStore(panel);
  const isNarrow = useNarrow();
  useDocumentTitle(conversation.title);
  useKeyDialog();

  const hasSidebar = isNarrow ? isDrawn : prefersSidebar;
  // What is covered cannot be reached with the keyboard either.
  const isCovered = isNarrow && (isDrawn || openPanel !== null);
  if (!isLoaded) return <p class="loading">{t.loading}</p>;
  return (
    <div class="app">
      {hasSidebar && <Sidebar shown={conversation.id} />}
      {isNarrow && isDrawn && <div class="backdrop" onClick={() => drawer.set(false)} />}
      <main class="main" inert={isCovered}>
        <Header conversation={conversation} hasSidebar={hasSidebar && !isNarrow} />
        <Banner />
        <Thread key={`thread-${conversation.id}`} conversation={conversation} />
        <Composer key={conversation.id} conversation={conversation} />
      </main>
      {openPanel === 'settings' && <SettingsPanel conversation={conversation} />}
      {openPanel === 'status' && <StatusPanel />}
      <Dialogs />
      <Toasts />
      <Announcer />
    </div>
  );
}

function Dialogs(): VNode | null {
  switch (useStore(dialog)) {
    case 'help':
      return <HelpDialog />;
    case 'preferences':
      return <PreferencesDialog />;
    case 'key':
      return <KeyDialog />;
    case null:
      return null;
  }
}

function useDocumentTitle(title: string): void {
  useEffect(() => {
    document.title = title === '' ? 'Fathom' : `${title} · Fathom`;
  }, [title]);
}

/** A server that wants a key is asked for it at once, not when the first message fails. */
function useKeyDialog(): void {
  const reach = useSelected(server, (now) => now.reach);
  useLayoutEffect(() => {
    if (reach === 'unauthorised') dialog.set('key');
  }, [reach]);
}
