import type { VNode } from 'preact';
import { useId } from 'preact/hooks';

interface Props<T extends string> {
  name: string;
  options: readonly (readonly [value: T, label: string])[];
  value: T;
  onChange: (value: T) => void;
}

/** One of a few, side by side: radio buttons that look like a row of tabs. */
export function Choice<T extends string>({ name, options, value, onChange }: Props<T>): VNode {
  const group = useId();
  return (
    <fieldset class="field choice">
      <legend class="field-name">{name}</legend>
      <div class="choice-row">
        {options.map(([option, label]) => (
          <label key={option}>
            <input type="radio" name={group} checked={option === value} onChange={() => onChange(option)} />
            <span>{label}</span>
          </label>
        ))}
      </div>
    </fieldset>
  );
}
