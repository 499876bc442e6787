import { Component, createElement, type ComponentChild, type ComponentClass, type FunctionComponent } from 'preact';

/** A component that is drawn again only when one of its properties is another one (React's memo, without the rest of it). */
export function memo<P extends object>(inner: FunctionComponent<P>): ComponentClass<P> {
  return class extends Component<P> {
    override shouldComponentUpdate(next: Readonly<P>): boolean {
      const now = this.props as Readonly<P>;
      const names = Object.keys(next) as (keyof P)[];
      return names.length !== Object.keys(now).length || names.some((name) => next[name] !== now[name]);
    }
    override render(): ComponentChild {
      return createElement(inner, this.props as P);
    }
  };
}
