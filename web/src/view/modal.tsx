import type { ComponentChildren, VNode } from 'preact';
import { useLayoutEffect, useRef } from 'preact/hooks';
import { useText } from '../text/language';
import { IconButton } from './icon-button';

interface Props {
  title: string;
  onClose: () => void;
  children: ComponentChildren;
}

/** A dialog over the page. The browser's own element holds the focus in it and closes it with Escape. */
export function Modal({ title, onClose, children }: Props): VNode {
  const { t } = useText();
  const dialog = useRef<HTMLDialogElement>(null);
  useLayoutEffect(() => dialog.current?.showModal(), []);
  return (
    <dialog
      class="modal"
      ref={dialog}
      aria-labelledby="modal-title"
      onClose={onClose}
      // A click on the dialog's own element is one on what lies around its content.
      onClick={(event) => event.target === event.currentTarget && event.currentTarget.close()}
    >
      <div class="modal-content">
        <div class="panel-head">
          <h2 id="modal-title">{title}</h2>
          <IconButton icon="close" label={t.close} onClick={() => dialog.current?.close()} />
        </div>
        <div class="panel-body" tabIndex={0}>
          {children}
        </div>
      </div>
    </dialog>
  );
}
