import type { VNode } from 'preact';

/** Line drawings on a grid of 24. Dots are lines of no length with round ends. */
const drawings = {
  plus: 'M12 5v14M5 12h14',
  search: 'M11 4.5a6.5 6.5 0 1 0 0 13 6.5 6.5 0 1 0 0-13M16 16l4.5 4.5',
  sidebar: 'M5.5 4.5h13a2 2 0 0 1 2 2v11a2 2 0 0 1-2 2h-13a2 2 0 0 1-2-2v-11a2 2 0 0 1 2-2zM9.5 4.5v15',
  sliders: 'M4 7h9M18.5 7H20M4 17h1.5M11 17h9M15.7 4.8a2.2 2.2 0 1 0 0 4.4 2.2 2.2 0 1 0 0-4.4M8.2 14.8a2.2 2.2 0 1 0 0 4.4 2.2 2.2 0 1 0 0-4.4',
  pulse: 'M3 12h4l2.6-7 4.6 14 2.6-7H21',
  toggles: 'M8 4.5h8a3 3 0 0 1 0 6H8a3 3 0 0 1 0-6zM16 7.5h.01M8 13.5h8a3 3 0 0 1 0 6H8a3 3 0 0 1 0-6zM8 16.5h.01',
  keyboard: 'M4.5 6.5h15a1.5 1.5 0 0 1 1.5 1.5v8a1.5 1.5 0 0 1-1.5 1.5h-15A1.5 1.5 0 0 1 3 16V8a1.5 1.5 0 0 1 1.5-1.5zM7 10.5h.01M10.3 10.5h.01M13.7 10.5h.01M17 10.5h.01M8.5 14h7',
  copy: 'M10.5 8.5h7a2 2 0 0 1 2 2v7a2 2 0 0 1-2 2h-7a2 2 0 0 1-2-2v-7a2 2 0 0 1 2-2zM5.5 15.5A1.5 1.5 0 0 1 4 14V6a2 2 0 0 1 2-2h8a1.5 1.5 0 0 1 1.5 1.5',
  check: 'M5 12.5l4.5 4.5L19 7.5',
  edit: 'M4.5 19.5l.9-4L15.8 5.1a1.9 1.9 0 0 1 2.6 0l.5.5a1.9 1.9 0 0 1 0 2.6L8.5 18.6zM13.8 7.1l3.1 3.1',
  again: 'M19.5 12a7.5 7.5 0 1 1-2.3-5.4L19.5 9M19.5 4.5V9H15',
  onward: 'M5 5v6a3 3 0 0 0 3 3h11M14.5 9.5L19 14l-4.5 4.5',
  left: 'M14 6.5L8.5 12l5.5 5.5',
  right: 'M10 6.5l5.5 5.5-5.5 5.5',
  send: 'M12 19V5.5M6 11.5l6-6 6 6',
  close: 'M6.5 6.5l11 11M17.5 6.5l-11 11',
  more: 'M6 12h.01M12 12h.01M18 12h.01',
  down: 'M12 5v13.5M6.5 13l5.5 5.5 5.5-5.5',
  bulb: 'M9.5 18h5M10.5 21h3M12 3.2a5.8 5.8 0 0 0-3.7 10.3c.8.7 1.3 1.5 1.3 2.5h4.8c0-1 .5-1.8 1.3-2.5A5.8 5.8 0 0 0 12 3.2z',
  warning: 'M12 4.5l8.5 15h-17zM12 10v4.5M12 17.2h.01',
  reset: 'M4.5 12a7.5 7.5 0 1 0 2.3-5.4L4.5 9M4.5 4.5V9H9',
} as const;

export type IconName = keyof typeof drawings;

export function Icon({ name }: { name: IconName }): VNode {
  return (
    <svg class={`icon icon-${name}`} viewBox="0 0 24 24" aria-hidden="true">
      <path d={drawings[name]} />
    </svg>
  );
}

/** The square of the button that stops an answer: the only drawing that is filled. */
export function StopIcon(): VNode {
  return (
    <svg class="icon icon-stop" viewBox="0 0 24 24" aria-hidden="true">
      <rect x="7" y="7" width="10" height="10" rx="2" />
    </svg>
  );
}

/** A lead on its line under the surface of the water: what a fathom was measured with. */
export function Mark(): VNode {
  return (
    <svg class="mark" viewBox="0 0 32 32" aria-hidden="true">
      <path class="mark-water" d="M4 10c2-2.2 4.1-2.2 6 0s4.1 2.2 6 0 4.1-2.2 6 0 4.1 2.2 6 0" />
      <path d="M16 3.5v16" />
      <path class="mark-lead" d="M16 18.5l3.3 4a2 2 0 0 1 0 2.5L16 29l-3.3-4a2 2 0 0 1 0-2.5z" />
    </svg>
  );
}
