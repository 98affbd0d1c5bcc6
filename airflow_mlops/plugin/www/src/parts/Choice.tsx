import { NativeSelect } from "@chakra-ui/react";

type Props = {
  label: string;
  /** The text of the option without a filter; without it, there is no such option. */
  empty?: string;
  options: Record<string, string>;
  value: string;
  onChange: (value: string) => void;
};

export const Choice = ({ empty, label, onChange, options, value }: Props) => (
  <NativeSelect.Root maxW="min(260px, 100%)" size="sm" width="auto">
    <NativeSelect.Field aria-label={label} onChange={(event) => onChange(event.target.value)} value={value}>
      {empty === undefined ? null : <option value="">{empty}</option>}
      {value === "" || Object.hasOwn(options, value) ? null : <option value={value}>{value}</option>}
      {Object.entries(options).map(([key, text]) => (
        <option key={key} value={key}>
          {text}
        </option>
      ))}
    </NativeSelect.Field>
    <NativeSelect.Indicator />
  </NativeSelect.Root>
);
