import type { Conversation } from '../chat/conversation';
import { exportJson, exportMarkdown, fileName, importJson, type Problem } from '../chat/exchange';
import { newId } from '../base/id';
import { currentFormat, currentStrings } from '../text/language';
import { conversationOf, keep, library } from './library';
import { toast } from './ui';

function download(name: string, type: string, text: string): void {
  const address = URL.createObjectURL(new Blob([text], { type }));
  const link = document.createElement('a');
  link.href = address;
  link.download = name;
  link.click();
  // Some browsers begin to read only after this call has returned.
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}

export function exportOneAsJson(conversation: Conversation): void {
  download(fileName(conversation.title, 'json'), 'application/json', exportJson([conversation]));
}

export function exportOneAsMarkdown(conversation: Conversation): void {
  const t = currentStrings();
  const names = { user: t.you, assistant: t.assistant, thoughts: t.thoughts, system: t.systemPrompt };
  download(fileName(conversation.title, 'md'), 'text/markdown', exportMarkdown(conversation, names));
}

export function exportAll(): void {
  const day = new Date().toISOString().slice(0, 10);
  download(`fathom-${day}.json`, 'application/json', exportJson(library.get() ?? []));
}

/** Lets the user choose files and adds what is in them. One that is there already comes in as a copy, never over it. */
export function importFiles(): void {
  const input = document.createElement('input');
  input.type = 'file';
  input.accept = '.json,application/json';
  input.multiple = true;
  input.addEventListener('change', () => void importChosen([...(input.files ?? [])]));
  input.click();
}

async function importChosen(files: readonly File[]): Promise<void> {
  const t = currentStrings();
  const taken: Conversation[] = [];
  const problems: string[] = [];
  for (const file of files) {
    const text = await file.text().catch(() => '');
    const imported = importJson(text);
    problems.push(...imported.problems.map((problem) => `${file.name}: ${sentenceOf(problem)}`));
    for (const conversation of imported.conversations) {
      const isThere = conversationOf(conversation.id) !== null || taken.some(({ id }) => id === conversation.id);
      taken.push(isThere ? { ...conversation, id: newId() } : conversation);
    }
  }
  if (taken.length > 0) keep(...taken);
  const count = taken.length > 0 ? t.imported(currentFormat().count(taken.length)) : t.importedNone;
  toast(problems.length > 0 ? `${count} ${t.importProblems}: ${listed(problems)}` : count);
}

function sentenceOf(problem: Problem): string {
  const t = currentStrings();
  switch (problem.what) {
    case 'not-json':
      return t.importNotJson;
    case 'not-an-export':
      return t.importNotAnExport;
    case 'no-list':
      return t.importNoList;
    case 'version':
      return t.importVersion(problem.version);
    case 'conversation': {
      const { conversation, flaw } = problem;
      if (flaw.message === null) return t.importConversation(String(conversation), flaw.field);
      return t.importMessage(String(conversation), String(flaw.message), flaw.field);
    }
  }
}

/** The first problems; a broken file of a thousand conversations has a thousand. */
function listed(problems: readonly string[]): string {
  return problems.slice(0, 3).join(' ') + (problems.length > 3 ? ' …' : '');
}
