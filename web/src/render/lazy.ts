/** A module that is fetched when something first needs it. */
export interface Lazy<T> {
  /** The module, or null while it is not there; asking starts the fetching. */
  get(): T | null;
}

const waiting = new Set<() => void>();

/** Called once, after the next module has come. */
export function whenLoaded(action: () => void): void {
  waiting.add(action);
}

export function forgetWhenLoaded(action: () => void): void {
  waiting.delete(action);
}

export function lazy<T>(load: () => Promise<T>): Lazy<T> {
  let module: T | null = null;
  let loading = false;
  return {
    get() {
      if (module === null && !loading) {
        loading = true;
        load().then(
          (loaded) => {
            module = loaded;
            const actions = [...waiting];
            waiting.clear();
            for (const action of actions) action();
          },
          // The server is gone: what is shown stays plain, and the next need tries again.
          () => {
            loading = false;
          },
        );
      }
      return module;
    },
  };
}
