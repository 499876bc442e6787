/**
 * Makes the nodes `old`, which stand one after the other in `parent`, equal to `next`, and leaves those parts in place that
 * are equal already: a selection, the focus and scrolled code survive while the text behind them grows. Returns what stands
 * there now. `next` is used up.
 */
export function patchNodes(parent: Node, old: readonly ChildNode[], next: readonly ChildNode[]): ChildNode[] {
  const behind = old.at(-1)?.nextSibling ?? null;
  const result = next.map((node, index) => {
    const before = old[index];
    if (before) return patchNode(before, node);
    parent.insertBefore(node, behind);
    return node;
  });
  for (const extra of old.slice(next.length)) extra.remove();
  return result;
}

function patchNode(old: ChildNode, next: ChildNode): ChildNode {
  if (old instanceof Text && next instanceof Text) {
    patchText(old, next.data);
    return old;
  }
  if (old instanceof Element && next instanceof Element && old.localName === next.localName && old.namespaceURI === next.namespaceURI) {
    patchAttributes(old, next);
    patchNodes(old, [...old.childNodes], [...next.childNodes]);
    return old;
  }
  old.replaceWith(next);
  return next;
}

function patchText(old: Text, data: string): void {
  if (old.data === data) return;
  // Appending keeps a selection that ends in this text.
  if (data.startsWith(old.data)) old.appendData(data.slice(old.data.length));
  else old.data = data;
}

function patchAttributes(old: Element, next: Element): void {
  for (const name of old.getAttributeNames()) {
    if (!next.hasAttribute(name)) old.removeAttribute(name);
  }
  for (const name of next.getAttributeNames()) {
    const value = next.getAttribute(name) ?? '';
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
}
