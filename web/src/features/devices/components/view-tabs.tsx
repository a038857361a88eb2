// Saved views as tabs above the list.
import { useNavigate } from "@tanstack/react-router";
import { BookmarkPlus, X } from "lucide-react";
import { useState } from "react";
import { Button } from "@/components/ui/button";
import { Input } from "@/components/ui/form";
import { Popover } from "@/components/ui/menu";
import { ALL, removeView, sameView, saveView, useViews, type View } from "@/features/devices/views";
import { cn } from "@/lib/cn";
import type { DevicesSearch } from "@/lib/url";

function useGo() {
  const navigate = useNavigate();
  return (view: View) =>
    void navigate({
      to: "/devices",
      search: {
        ...(view.q === undefined ? {} : { q: view.q }),
        ...(view.filter === undefined ? {} : { filter: view.filter }),
        ...(view.sort === undefined ? {} : { sort: view.sort }),
      },
    });
}

export function ViewTabs({ search }: { search: DevicesSearch }) {
  const views = [ALL, ...useViews()];
  const go = useGo();
  const known = views.some((view) => sameView(view, search));
  return (
    <div
      className="flex items-end gap-1 overflow-x-auto px-4 sm:px-6"
      role="group"
      aria-label="Views"
    >
      {views.map((view) => {
        const active = sameView(view, search);
        return (
          <div
            key={view.id}
            className={cn(
              "group flex shrink-0 items-center border-b-2",
              active ? "border-accent" : "border-transparent",
            )}
          >
            <button
              type="button"
              aria-pressed={active}
              onClick={() => go(view)}
              className={cn(
                "h-8 px-2 text-sm whitespace-nowrap",
                active ? "font-medium" : "text-muted hover:text-text",
              )}
            >
              {view.name}
            </button>
            {view.id !== ALL.id && active && (
              <button
                type="button"
                aria-label={`Remove the view ${view.name}`}
                title="Remove this view"
                onClick={() => removeView(view.id)}
                className="-ml-1 rounded p-0.5 text-faint hover:text-text"
              >
                <X size={12} aria-hidden />
              </button>
            )}
          </div>
        );
      })}
      {!known && <SaveView search={search} />}
    </div>
  );
}

function SaveView({ search }: { search: DevicesSearch }) {
  const [open, setOpen] = useState(false);
  const [name, setName] = useState("");
  return (
    <Popover
      label="Save this view"
      open={open}
      onOpenChange={setOpen}
      trigger={
        <button
          type="button"
          className="flex h-[34px] items-center gap-1.5 px-2 text-sm whitespace-nowrap text-accent-ink hover:underline"
        >
          <BookmarkPlus size={14} aria-hidden /> Save view
        </button>
      }
    >
      <form
        className="flex items-center gap-2"
        onSubmit={(event) => {
          event.preventDefault();
          if (name.trim() === "") return;
          saveView(name.trim(), search);
          setOpen(false);
          setName("");
        }}
      >
        <Input
          aria-label="Name of the view"
          placeholder="Name of the view"
          value={name}
          maxLength={40}
          onChange={(event) => setName(event.target.value)}
        />
        <Button type="submit" variant="primary" disabled={name.trim() === ""}>
          Save
        </Button>
      </form>
    </Popover>
  );
}
