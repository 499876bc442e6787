import type { TargetedKeyboardEvent, VNode } from 'preact';
import { useEffect, useLayoutEffect, useRef, useState } from 'preact/hooks';
import { IconButton } from './icon-button';

export interface MenuItem {
  label: string;
  run: () => void;
  isDangerous?: boolean;
}

/** A button with a menu. Arrow keys move in it, Escape closes it and gives the focus back. */
export function Menu({ label, items }: { label: string; items: readonly MenuItem[] }): VNode {
  const [open, setOpen] = useState(false);
  const root = useRef<HTMLSpanElement>(null);
  const list = useRef<HTMLDivElement>(null);

  useLayoutEffect(() => {
    const button = root.current?.querySelector('button');
    if (!open || !button || !list.current) return;
    placeBeside(list.current, button);
    list.current.querySelector('button')?.focus();
  }, [open]);
  useEffect(() => {
    if (!open) return undefined;
    const close = (event: Event): void => {
      if (event.target instanceof Node && root.current?.contains(event.target)) return;
      setOpen(false);
    };
    // It stands at a fixed place, so it would stay behind when what is under it scrolls away.
    document.addEventListener('pointerdown', close);
    document.addEventListener('scroll', close, true);
    window.addEventListener('resize', close);
    return () => {
      document.removeEventListener('pointerdown', close);
      document.removeEventListener('scroll', close, true);
      window.removeEventListener('resize', close);
    };
  }, [open]);

  const leave = (): void => {
    setOpen(false);
    root.current?.querySelector('button')?.focus();
  };
  const onKeyDown = (event: TargetedKeyboardEvent<HTMLDivElement>): void => {
    const buttons = [...(list.current?.querySelectorAll('button') ?? [])];
    const at = buttons.findIndex((button) => button === document.activeElement);
    const step = event.key === 'ArrowDown' ? 1 : event.key === 'ArrowUp' ? -1 : 0;
    if (step !== 0) buttons[(at + step + buttons.length) % buttons.length]?.focus();
    else if (event.key === 'Home') buttons[0]?.focus();
    else if (event.key === 'End') buttons.at(-1)?.focus();
    else if (event.key === 'Escape') leave();
    else if (event.key === 'Tab') setOpen(false);
    else return;
    if (event.key !== 'Tab') event.preventDefault();
  };
  return (
    <span class="menu" ref={root}>
      <IconButton icon="more" label={label} pressed={open} onClick={() => setOpen(!open)} />
      {open && (
        <div class="menu-list" role="menu" aria-label={label} ref={list} onKeyDown={onKeyDown}>
          {items.map((item) => (
            <button
              key={item.label}
              type="button"
              role="menuitem"
              class={item.isDangerous ? 'dangerous' : ''}
              onClick={() => {
                leave();
                item.run();
              }}
            >
              {item.label}
            </button>
          ))}
        </div>
      )}
    </span>
  );
}

/** Under the button, or above it where there is no room; never outside the window. */
function placeBeside(list: HTMLElement, button: HTMLElement): void {
  const at = button.getBoundingClientRect();
  const gap = 4;
  const fitsBelow = at.bottom + gap + list.offsetHeight < window.innerHeight;
  list.style.top = `${fitsBelow ? at.bottom + gap : Math.max(gap, at.top - gap - list.offsetHeight)}px`;
  list.style.left = `${Math.max(gap, Math.min(at.left, window.innerWidth - list.offsetWidth - gap))}px`;
}
