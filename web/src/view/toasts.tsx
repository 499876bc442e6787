import type { VNode } from 'preact';
import { useEffect, useState } from 'preact/hooks';
import { announcement, dismissToast, toasts, type Toast } from '../app/ui';
import { useStore } from '../base/use-store';
import { useText } from '../text/language';
import { IconButton } from './icon-button';

/** Long enough to read two lines and to reach a button. */
const lifetime = 8000;

export function Toasts(): VNode {
  const list = useStore(toasts);
  return (
    <div class="toasts" role="status">
      {list.map((toast) => (
        <ToastView key={toast.id} toast={toast} />
      ))}
    </div>
  );
}

function ToastView({ toast }: { toast: Toast }): VNode {
  const { t } = useText();
  const [isHeld, setHeld] = useState(false);
  // Not while the pointer or the focus is on it.
  useEffect(() => {
    if (isHeld) return undefined;
    const timer = setTimeout(() => dismissToast(toast.id), lifetime);
    return () => clearTimeout(timer);
  }, [isHeld]);
  const { action } = toast;
  return (
    <div
      class="toast"
      onPointerEnter={() => setHeld(true)}
      onPointerLeave={() => setHeld(false)}
      onFocusIn={() => setHeld(true)}
      onFocusOut={() => setHeld(false)}
    >
      <p>{toast.text}</p>
      {action && (
        <button
          type="button"
          onClick={() => {
            action.run();
            dismissToast(toast.id);
          }}
        >
          {action.label}
        </button>
      )}
      <IconButton icon="close" label={t.close} onClick={() => dismissToast(toast.id)} />
    </div>
  );
}

/** What happens, for those who do not see it: a line that only screen readers read. */
export function Announcer(): VNode {
  return (
    <p class="visually-hidden" role="status">
      {useStore(announcement)}
    </p>
  );
}
