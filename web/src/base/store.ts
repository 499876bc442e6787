/** A value that tells its readers when it has changed. */
export interface Store<T> {
  get(): T;
  /** Readers are called in this call, unless `next` is the value that is there already. */
  set(next: T): void;
  update(change: (now: T) => T): void;
  /** Returns the call that ends the subscription. */
  subscribe(reader: () => void): () => void;
}

export function createStore<T>(initial: T): Store<T> {
  let value = initial;
  const readers = new Set<() => void>();
  const set = (next: T): void => {
    if (Object.is(next, value)) return;
    value = next;
    // A copy: a reader may end its own or another subscription while it is called.
    for (const reader of [...readers]) reader();
  };
  return {
    get: () => value,
    set,
    update: (change) => set(change(value)),
    subscribe: (reader) => {
      readers.add(reader);
      return () => readers.delete(reader);
    },
  };
}
