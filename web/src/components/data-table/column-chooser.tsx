// Which columns are shown.
import { Columns3 } from "lucide-react";
import { useTablePrefs, visibilityOf } from "@/components/data-table/prefs";
import type { Column } from "@/components/data-table/types";
import { buttonClass } from "@/components/ui/button";
import { Menu, MenuChoice, MenuItem, MenuLabel, MenuLine } from "@/components/ui/menu";

export function ColumnChooser<T>({ name, columns }: { name: string; columns: Column<T>[] }) {
  const [prefs, setPrefs] = useTablePrefs(name);
  const visibility = visibilityOf(columns, prefs);
  return (
    <Menu
      className="max-h-[60dvh] overflow-auto"
      trigger={
        <button
          type="button"
          className={buttonClass("secondary")}
          aria-label="Choose columns"
          title="Choose columns"
        >
          <Columns3 size={15} aria-hidden /> <span className="max-lg:hidden">Columns</span>
        </button>
      }
    >
      <MenuLabel>Columns</MenuLabel>
      {columns.map((column) => {
        const { id, meta } = column;
        if (id === undefined || meta === undefined || meta.fixed === true) return null;
        return (
          <MenuChoice
            key={id}
            keepOpen
            checked={visibility[id] !== false}
            onChange={(on) => setPrefs({ ...prefs, visibility: { ...prefs.visibility, [id]: on } })}
          >
            {meta.label}
          </MenuChoice>
        );
      })}
      <MenuLine />
      <MenuItem onSelect={() => setPrefs({ visibility: {}, sizing: {} })}>
        Back to the standard
      </MenuItem>
    </Menu>
  );
}
