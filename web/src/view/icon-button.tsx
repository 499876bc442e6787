import type { TargetedMouseEvent, VNode } from 'preact';
import { Icon, type IconName } from './icons';

interface Props {
  icon: IconName;
  /** What it does: read by screen readers, shown on hovering. */
  label: string;
  onClick: (event: TargetedMouseEvent<HTMLButtonElement>) => void;
  class?: string;
  disabled?: boolean;
  /** Whether what it opens is open, or what it switches is on. */
  pressed?: boolean;
}

export function IconButton({ icon, label, onClick, class: classes = '', disabled = false, pressed }: Props): VNode {
  return (
    <button
      type="button"
      class={`icon-button ${classes}`}
      aria-label={label}
      title={label}
      aria-pressed={pressed}
      disabled={disabled}
      onClick={onClick}
    >
      <Icon name={icon} />
    </button>
  );
}
