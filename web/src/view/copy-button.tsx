import type { VNode } from 'preact';
import { useEffect, useState } from 'preact/hooks';
import { copyText } from '../app/clipboard';
import { useText } from '../text/language';
import { IconButton } from './icon-button';

/** Copies a text and shows for a moment that it did. */
export function CopyButton({ text, label }: { text: string; label: string }): VNode {
  const { t } = useText();
  const [copied, setCopied] = useState(false);
  useEffect(() => {
    if (!copied) return undefined;
    const timer = setTimeout(() => setCopied(false), 1600);
    return () => clearTimeout(timer);
  }, [copied]);
  return (
    <IconButton
      icon={copied ? 'check' : 'copy'}
      label={copied ? t.copied : label}
      onClick={() => void copyText(text).then(setCopied)}
    />
  );
}
