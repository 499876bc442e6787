export type Age = 'today' | 'yesterday' | 'thisWeek' | 'older';

/** On which day it was, by the calendar of this machine. */
export function ageOf(time: number, now: number): Age {
  const today = new Date(now);
  // By calendar days, since a day has 23 or 25 hours when the clocks change.
  const daysAgo = (days: number): number =>
    new Date(today.getFullYear(), today.getMonth(), today.getDate() - days).getTime();
  if (time >= daysAgo(0)) return 'today';
  if (time >= daysAgo(1)) return 'yesterday';
  return time >= daysAgo(7) ? 'thisWeek' : 'older';
}
