import { render } from 'preact';
import { isAnswering } from './app/answers';
import { openLibrary } from './app/library';
import { followRoute } from './app/route';
import { followServer } from './app/server';
import { followTheme } from './app/theme';
import './style/index.css';
import { followLanguage } from './text/language';
import { App } from './view/app';
import { followShortcuts } from './view/shortcuts';

followTheme();
followLanguage();
followRoute();
followShortcuts();
followServer();
void openLibrary(isAnswering);

const root = document.getElementById('app');
if (root) render(<App />, root);
