// Runs before the first paint, so that a chosen theme does not flash the other one. A file of its own because the
// content policy allows no inline script; the page itself (src/app/theme.ts) takes over from here.
try {
  const { theme } = JSON.parse(localStorage.getItem('fathom.preferences'));
  if (theme === 'light' || theme === 'dark') document.documentElement.dataset.theme = theme;
} catch {
  // No preferences yet, or no storage: the system's theme.
}
