// The fields of an enrolment key.
import { zodResolver } from "@hookform/resolvers/zod";
import { useQuery } from "@tanstack/react-query";
import { useForm } from "react-hook-form";
import {
  Checkbox,
  Field,
  Input,
  Select,
  showServerErrors,
  submitOnCtrlEnter,
} from "@/components/ui/form";
import { ProblemNote } from "@/components/ui/problem";
import {
  EXPIRIES,
  KEY_DEFAULTS,
  keyBody,
  keySchema,
  type KeyValues,
} from "@/features/enrollment/key-form";
import type { useCreateKey } from "@/features/enrollment/queries";
import { sitesQuery } from "@/lib/api/shared-queries";
import type { CreatedEnrollmentKey } from "@/lib/api/types";
import { useSession } from "@/lib/session";

const FIELDS = ["name", "site_id", "expires_in_s", "max_uses", "requires_approval"] as const;

export function KeyForm({
  id,
  create,
  defaults,
  onCreated,
}: {
  id: string;
  create: ReturnType<typeof useCreateKey>;
  defaults?: Partial<KeyValues>;
  onCreated: (key: CreatedEnrollmentKey) => void;
}) {
  const session = useSession();
  const { data: sites = [] } = useQuery(sitesQuery);
  const form = useForm<KeyValues>({
    resolver: zodResolver(keySchema),
    defaultValues: { ...KEY_DEFAULTS, site_id: session.site.id, ...defaults },
  });
  const { errors } = form.formState;
  const submit = form.handleSubmit((values) =>
    create.mutate(keyBody(values), {
      onSuccess: onCreated,
      onError: (error) => showServerErrors(form, error, FIELDS),
    }),
  );
  return (
    <form
      id={id}
      onSubmit={(event) => void submit(event)}
      onKeyDown={submitOnCtrlEnter}
      noValidate
      className="flex flex-col gap-4"
    >
      {create.isError && <ProblemNote error={create.error} />}
      <Field
        label="Name"
        error={errors.name?.message}
        help="So that the list of keys tells what each was for."
      >
        {(control) => (
          <Input placeholder="Main building roll-out" {...control} {...form.register("name")} />
        )}
      </Field>
      <div className="grid gap-4 sm:grid-cols-2">
        <Field label="Expires after" error={errors.expires_in_s?.message}>
          {(control) => (
            <Select {...control} {...form.register("expires_in_s")}>
              {EXPIRIES.map((expiry) => (
                <option key={expiry.value} value={expiry.value}>
                  {expiry.label}
                </option>
              ))}
            </Select>
          )}
        </Field>
        <Field label="Devices at most" optional error={errors.max_uses?.message}>
          {(control) => (
            <Input
              inputMode="numeric"
              placeholder="No limit"
              {...control}
              {...form.register("max_uses")}
            />
          )}
        </Field>
      </div>
      {sites.length > 1 && (
        <Field label="Site" error={errors.site_id?.message} help="New devices go there.">
          {(control) => (
            <Select {...control} {...form.register("site_id")}>
              {sites.map((site) => (
                <option key={site.id} value={site.id}>
                  {site.name}
                </option>
              ))}
            </Select>
          )}
        </Field>
      )}
      <label className="flex items-start gap-2.5 text-sm">
        <Checkbox className="mt-0.5" {...form.register("requires_approval")} />
        <span>
          Each device waits for approval
          <span className="block text-xs text-muted">
            It appears under Pending devices and does nothing until somebody lets it in.
          </span>
        </span>
      </label>
    </form>
  );
}
