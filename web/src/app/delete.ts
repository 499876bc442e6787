import { currentStrings } from '../text/language';
import { stopAnswer } from './answers';
import { keep, remove } from './library';
import { show, shownId } from './route';
import { toast } from './ui';

/** Removes a conversation, and offers to put it back. */
export async function deleteConversation(id: string): Promise<void> {
  // First, so that what had come of an answer comes back too.
  await stopAnswer(id);
  const wasShown = shownId.get() === id;
  const removed = remove(id);
  if (!removed) return;
  if (wasShown) show(null);
  const t = currentStrings();
  toast(t.deleted(removed.title), {
    label: t.undo,
    run: () => {
      keep(removed);
      if (wasShown) show(id);
    },
  });
}
