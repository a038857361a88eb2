// Tags as chips in a field: Enter or a comma ends one, Backspace takes the last away.
import { useState } from "react";
import { Tag } from "@/components/device/status";
import type { ControlProps } from "@/components/ui/form";

export function TagInput({
  control,
  value,
  onChange,
}: {
  control: ControlProps;
  value: readonly string[];
  onChange: (tags: readonly string[]) => void;
}) {
  const [text, setText] = useState("");
  const add = () => {
    const words = text.split(/[,\s]+/).filter((word) => word !== "");
    if (words.length > 0) onChange([...new Set([...value, ...words])]);
    setText("");
  };
  return (
    <div className="flex min-h-8 flex-wrap items-center gap-1 rounded-md border border-field-line/60 px-2 py-1 focus-within:border-accent focus-within:ring-2 focus-within:ring-accent/30">
      {value.map((tag) => (
        <Tag key={tag} onRemove={() => onChange(value.filter((other) => other !== tag))}>
          {tag}
        </Tag>
      ))}
      <input
        {...control}
        value={text}
        onChange={(event) => setText(event.target.value)}
        onBlur={add}
        onKeyDown={(event) => {
          if (
            (event.key === "Enter" && !event.ctrlKey && !event.metaKey && text !== "") ||
            event.key === ","
          ) {
            event.preventDefault();
            add();
          } else if (event.key === "Backspace" && text === "") {
            onChange(value.slice(0, -1));
          }
        }}
        className="min-w-24 flex-1 bg-transparent text-sm outline-none max-sm:text-base"
      />
    </div>
  );
}
