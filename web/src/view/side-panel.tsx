import type { ComponentChildren, VNode } from 'preact';
import { useLayoutEffect, useRef } from 'preact/hooks';
import { panel } from '../app/ui';
import { useText } from '../text/language';
import { IconButton } from './icon-button';

interface Props {
  title: string;
  note?: string;
  children: ComponentChildren;
}

/** What stands beside the conversation, or over it on a phone. */
export function SidePanel({ title, note, children }: Props): VNode {
  const { t } = useText();
  const body = useRef<HTMLDivElement>(null);
  // Who opens it with a key goes on in it, and then where they were.
  useLayoutEffect(() => {
    const before = document.activeElement;
    body.current?.focus();
    return () => before instanceof HTMLElement && before.focus();
  }, []);
  return (
    <aside class="panel" aria-label={title}>
      <div class="panel-head">
        <h2>
          {title}
          {note && <small>{note}</small>}
        </h2>
        <IconButton icon="close" label={t.close} onClick={() => panel.set(null)} />
      </div>
      {/* It may scroll without holding anything that takes the focus. */}
      <div class="panel-body" ref={body} tabIndex={0}>
        {children}
      </div>
    </aside>
  );
}
