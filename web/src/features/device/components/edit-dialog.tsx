// Name, tags and site of a device. What was typed stays when somebody else was faster.
import { zodResolver } from "@hookform/resolvers/zod";
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { useForm } from "react-hook-form";
import { Button } from "@/components/ui/button";
import { Dialog } from "@/components/ui/dialog";
import { Field, Input, Select, showServerErrors, submitOnCtrlEnter } from "@/components/ui/form";
import { ProblemNote } from "@/components/ui/problem";
import { TagInput } from "@/components/ui/tag-input";
import { toast } from "@/components/ui/toast";
import { deviceQuery, usePatchDevice } from "@/features/device/queries";
import type { Tagged } from "@/lib/api/client";
import { asProblem } from "@/lib/api/problem";
import { sitesQuery } from "@/lib/api/shared-queries";
import type { Device, DevicePatch } from "@/lib/api/types";
import { z } from "@/lib/zod";

const schema = z.object({
  display_name: z.string().trim().max(120, "Use at most 120 characters."),
  site_id: z.string(),
});
type Values = z.infer<typeof schema>;

/** Only what was changed is sent, so that two people can change different things. */
export function patchOf(device: Device, values: Values & { tags: readonly string[] }): DevicePatch {
  const name = values.display_name === "" ? null : values.display_name;
  const sameTags =
    values.tags.length === device.tags.length &&
    values.tags.every((tag) => device.tags.includes(tag));
  return {
    ...(name === (device.display_name ?? null) ? {} : { display_name: name }),
    ...(sameTags ? {} : { tags: [...values.tags] }),
    ...(values.site_id === device.site.id ? {} : { site_id: values.site_id }),
  };
}

export function EditDialog({ tagged, onClose }: { tagged: Tagged<Device>; onClose: () => void }) {
  const { data: device } = tagged;
  // The version that was open when typing began: a change by somebody else must be noticed.
  const [etag, setEtag] = useState(tagged.etag);
  const [tags, setTags] = useState<readonly string[]>(device.tags);
  const client = useQueryClient();
  const patch = usePatchDevice(device.id);
  const { data: sites = [] } = useQuery(sitesQuery);
  const form = useForm<Values>({
    resolver: zodResolver(schema),
    defaultValues: { display_name: device.display_name ?? "", site_id: device.site.id },
  });
  const { errors } = form.formState;
  const options = sites.some((site) => site.id === device.site.id)
    ? sites
    : [device.site, ...sites];

  const submit = form.handleSubmit((values) => {
    const body = patchOf(device, { ...values, tags });
    if (Object.keys(body).length === 0) {
      onClose();
      return;
    }
    patch.mutate(
      { etag, body },
      {
        onSuccess: () => {
          toast("Saved.");
          onClose();
        },
        onError: (error) => showServerErrors(form, error, ["display_name", "site_id"]),
      },
    );
  });
  const reload = async () => {
    const fresh = await client.query({ ...deviceQuery(device.id), staleTime: 0 });
    setEtag(fresh.etag);
    patch.reset();
  };
  const outdated = patch.isError && asProblem(patch.error).code === "precondition_failed";
  return (
    <Dialog
      open
      onClose={onClose}
      title={`Edit ${device.display_name ?? device.hostname}`}
      footer={
        <>
          <Button onClick={onClose}>Cancel</Button>
          <Button
            type="submit"
            form="edit-device"
            variant="primary"
            busy={patch.isPending}
            disabled={outdated}
          >
            Save
          </Button>
        </>
      }
    >
      <form
        id="edit-device"
        onSubmit={(event) => void submit(event)}
        onKeyDown={submitOnCtrlEnter}
        noValidate
        className="flex flex-col gap-4"
      >
        {patch.isError && (
          <ProblemNote
            error={patch.error}
            {...(outdated
              ? { onRetry: () => void reload(), retryLabel: "Reload it, keep what I typed" }
              : {})}
          />
        )}
        <Field
          label="Name"
          optional
          error={errors.display_name?.message}
          help={`Without one it is shown as ${device.hostname}.`}
        >
          {(control) => (
            <Input placeholder={device.hostname} {...control} {...form.register("display_name")} />
          )}
        </Field>
        <Field label="Tags" help="Enter or a comma ends a tag.">
          {(control) => <TagInput control={control} value={tags} onChange={setTags} />}
        </Field>
        <Field label="Site" error={errors.site_id?.message}>
          {(control) => (
            <Select {...control} {...form.register("site_id")}>
              {options.map((site) => (
                <option key={site.id} value={site.id}>
                  {site.name}
                </option>
              ))}
            </Select>
          )}
        </Field>
      </form>
    </Dialog>
  );
}
