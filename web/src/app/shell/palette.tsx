// The command palette: devices, pages and actions under one field.
import { useQuery } from "@tanstack/react-query";
import { useNavigate } from "@tanstack/react-router";
import { LogOut, Moon, Plus, Search, Sun, type LucideIcon } from "lucide-react";
import { useDeferredValue, useEffect, useId, useState } from "react";
import { MAIN, SETTINGS, SYSTEM } from "@/app/shell/nav";
import { useSignOut } from "@/app/shell/top-bar";
import { StatusMark } from "@/components/device/status";
import { Dialog } from "@/components/ui/dialog";
import { findDevicesQuery } from "@/lib/api/shared-queries";
import { cn } from "@/lib/cn";
import { deviceName, STATUS_LABEL } from "@/lib/format/labels";
import { chooseTheme, theme } from "@/lib/theme";

interface Command {
  id: string;
  group: "Devices" | "Pages" | "Actions";
  label: string;
  hint?: string;
  icon: React.ReactNode;
  words: string;
  run: () => void;
}

const icon = (Icon: LucideIcon) => <Icon size={15} className="shrink-0 text-faint" aria-hidden />;

function useCommands(text: string, onAdd: () => void): Command[] {
  const navigate = useNavigate();
  const signOut = useSignOut();
  const needle = text.trim().toLowerCase();
  const { data: devices = [] } = useQuery(findDevicesQuery(useDeferredValue(text.trim())));

  const pages: Command[] = [...MAIN, ...SETTINGS, ...SYSTEM].map((entry) => ({
    id: entry.to,
    group: "Pages",
    label: entry.label,
    icon: icon(entry.icon),
    words: `${entry.label} ${entry.also ?? ""}`,
    run: () => void navigate({ to: entry.to }),
  }));
  const dark = theme.get() === "dark";
  const actions: Command[] = [
    {
      id: "add",
      group: "Actions",
      label: "Add a device",
      icon: icon(Plus),
      words: "add device install enrol",
      run: onAdd,
    },
    {
      id: "theme",
      group: "Actions",
      label: dark ? "Use the light appearance" : "Use the dark appearance",
      icon: icon(dark ? Sun : Moon),
      words: "theme appearance dark light mode",
      run: () => chooseTheme(dark ? "light" : "dark"),
    },
    {
      id: "out",
      group: "Actions",
      label: "Sign out",
      icon: icon(LogOut),
      words: "sign out log out",
      run: () => signOut.mutate(),
    },
  ];
  const found: Command[] = devices.map((device) => ({
    id: device.id,
    group: "Devices",
    label: deviceName(device),
    hint: `${STATUS_LABEL[device.status]} · ${device.site.name}`,
    icon: <StatusMark status={device.status} />,
    words: needle,
    run: () => void navigate({ to: "/devices/$deviceId", params: { deviceId: device.id } }),
  }));
  const matches = [...pages, ...actions].filter((command) =>
    needle.split(/\s+/).every((word) => command.words.toLowerCase().includes(word)),
  );
  return [...(needle === "" ? [] : found), ...matches];
}

export function Palette({
  open,
  onClose,
  onAdd,
}: {
  open: boolean;
  onClose: () => void;
  onAdd: () => void;
}) {
  return (
    <Dialog
      open={open}
      onClose={onClose}
      title="Find a device, page or action"
      hideTitle
      place="top"
      className="[&>div]:p-0"
    >
      <PaletteBody onClose={onClose} onAdd={onAdd} />
    </Dialog>
  );
}

function PaletteBody({ onClose, onAdd }: { onClose: () => void; onAdd: () => void }) {
  const [text, setText] = useState("");
  const [at, setAt] = useState(0);
  const listId = useId();
  const commands = useCommands(text, onAdd);
  const active = Math.min(at, Math.max(0, commands.length - 1));

  useEffect(() => {
    document.getElementById(`${listId}-${active}`)?.scrollIntoView({ block: "nearest" });
  }, [active, listId]);

  const run = (command: Command | undefined) => {
    if (command === undefined) return;
    onClose();
    command.run();
  };
  const onKey = (event: React.KeyboardEvent) => {
    const step = event.key === "ArrowDown" ? 1 : event.key === "ArrowUp" ? -1 : 0;
    if (step !== 0 && commands.length > 0) {
      event.preventDefault();
      setAt((active + step + commands.length) % commands.length);
    } else if (event.key === "Enter") {
      event.preventDefault();
      run(commands[active]);
    }
  };
  return (
    <>
      <div className="flex items-center gap-3 border-b border-line px-4">
        <Search size={16} className="shrink-0 text-faint" aria-hidden />
        <input
          // The palette is opened to type in it.

          autoFocus
          role="combobox"
          aria-expanded
          aria-controls={listId}
          aria-activedescendant={`${listId}-${active}`}
          aria-label="Find a device, page or action"
          placeholder="Type a name, an address, a page…"
          value={text}
          onChange={(event) => {
            setText(event.target.value);
            setAt(0);
          }}
          onKeyDown={onKey}
          className="h-12 w-full bg-transparent text-base outline-none"
        />
      </div>
      <ul id={listId} role="listbox" aria-label="Results" className="p-1.5">
        {commands.map((command, index) => (
          <li key={command.id} role="presentation">
            {command.group !== commands[index - 1]?.group && (
              <p className="px-2.5 pt-2 pb-1 text-xs text-faint">{command.group}</p>
            )}
            {/* The field above takes the keys; the row answers the pointer. */}
            {/* eslint-disable-next-line jsx-a11y/click-events-have-key-events */}
            <div
              id={`${listId}-${index}`}
              role="option"
              tabIndex={-1}
              aria-selected={index === active}
              onClick={() => run(command)}
              onPointerMove={() => setAt(index)}
              className={cn(
                "flex h-9 cursor-pointer items-center gap-2.5 rounded-md px-2.5 text-sm",
                index === active && "bg-surface-2",
              )}
            >
              <span className="flex w-4 justify-center">{command.icon}</span>
              <span className="min-w-0 flex-1 truncate">{command.label}</span>
              {command.hint !== undefined && (
                <span className="truncate text-xs text-faint">{command.hint}</span>
              )}
            </div>
          </li>
        ))}
      </ul>
      {commands.length === 0 && (
        <p className="px-4 pb-4 text-sm text-muted">
          Nothing of that name. Devices are found by name, address, user, serial number and tag.
        </p>
      )}
    </>
  );
}
