import { Flaw, readConversation, type Conversation } from '../chat/conversation';

const databaseName = 'fathom';
const storeName = 'conversations';

/** Where conversations are kept between visits. Every call may reject: browsers can refuse storage, and disks fill. */
export interface ConversationStore {
  /** Those that can be read; what cannot be is left where it is. */
  all(): Promise<Conversation[]>;
  one(id: string): Promise<Conversation | null>;
  put(conversation: Conversation): Promise<void>;
  remove(id: string): Promise<void>;
}

function done<T>(request: IDBRequest<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error ?? new Error('IndexedDB refused'));
  });
}

/** A conversation that is written once a second while an answer comes must not wait for the disk each time. */
const options: IDBTransactionOptions = { durability: 'relaxed' };

export async function openConversationStore(): Promise<ConversationStore> {
  const opening = indexedDB.open(databaseName, 1);
  opening.onupgradeneeded = () => opening.result.createObjectStore(storeName, { keyPath: 'id' });
  const database = await done(opening);
  // Another tab with a newer page may have to change the store's form: do not stand in its way.
  database.onversionchange = () => database.close();

  const write = (work: (store: IDBObjectStore) => void): Promise<void> =>
    new Promise((resolve, reject) => {
      const transaction = database.transaction(storeName, 'readwrite', options);
      transaction.oncomplete = () => resolve();
      transaction.onabort = () => reject(transaction.error ?? new Error('IndexedDB refused'));
      work(transaction.objectStore(storeName));
    });
  const read = (): IDBObjectStore => database.transaction(storeName, 'readonly').objectStore(storeName);

  return {
    async all() {
      const values: unknown[] = await done<unknown[]>(read().getAll());
      return values.map(readConversation).flatMap((read) => (read instanceof Flaw ? [] : [read]));
    },
    async one(id) {
      const conversation = readConversation(await done<unknown>(read().get(id)));
      return conversation instanceof Flaw ? null : conversation;
    },
    put: (conversation) => write((store) => store.put(conversation)),
    remove: (id) => write((store) => store.delete(id)),
  };
}
