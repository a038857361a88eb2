// The first page of a new installation: the one-time token comes in the fragment, which no server
// and no log ever sees.
import { zodResolver } from "@hookform/resolvers/zod";
import { useQuery } from "@tanstack/react-query";
import { Link, useNavigate } from "@tanstack/react-router";
import { useState, type ReactNode } from "react";
import { useForm, useWatch } from "react-hook-form";
import { Button, buttonClass } from "@/components/ui/button";
import { Field, Input, showServerErrors, submitOnCtrlEnter } from "@/components/ui/form";
import { ProblemNote } from "@/components/ui/problem";
import { AuthFrame } from "@/features/auth/components/auth-frame";
import { PasswordMeter } from "@/features/auth/components/password-meter";
import { PASSWORD_MIN } from "@/features/auth/password";
import { useSetup } from "@/features/auth/queries";
import { instanceQuery } from "@/lib/api/shared-queries";
import { z } from "@/lib/zod";

const schema = z.object({
  name: z.string().trim().min(1, "Enter your name, as colleagues know you."),
  email: z.email("Enter an e-mail address, such as ada@example.com."),
  password: z.string().min(PASSWORD_MIN, `Use at least ${PASSWORD_MIN} characters.`),
  organization_name: z.string().trim().min(1, "Enter a name for your organization."),
  site_name: z.string().trim().min(1, "Enter a name for the first site."),
});
type Values = z.infer<typeof schema>;
const FIELDS = ["name", "email", "password", "organization_name", "site_name"] as const;

export function tokenFrom(hash: string): string | null {
  const token = new URLSearchParams(hash.replace(/^#/, "")).get("token");
  return token === null || token.trim() === "" ? null : token.trim();
}

export function SetupPage(): ReactNode {
  const [token] = useState(() => tokenFrom(location.hash));
  const { data: instance } = useQuery(instanceQuery);
  const setup = useSetup();
  if (instance?.setup_required === false && !setup.isPending && !setup.isSuccess) {
    return (
      <AuthFrame
        title="Already set up"
        intro="This server has its first user. The set-up link worked once and is closed."
      >
        <Link to="/sign-in" className={buttonClass("primary")}>
          Sign in
        </Link>
      </AuthFrame>
    );
  }
  if (token === null) {
    return (
      <AuthFrame title="The link is incomplete" intro="Its token is missing.">
        <p className="text-sm">
          Open the whole link that the server printed when it started, with everything after{" "}
          <code className="font-mono text-xs">#token=</code>.
        </p>
      </AuthFrame>
    );
  }
  return (
    <AuthFrame
      title="Set up Breeze"
      intro="You become the administrator of this server. It takes a minute."
    >
      <SetupForm token={token} setup={setup} />
    </AuthFrame>
  );
}

function SetupForm({ token, setup }: { token: string; setup: ReturnType<typeof useSetup> }) {
  const navigate = useNavigate();
  const form = useForm<Values>({
    resolver: zodResolver(schema),
    defaultValues: {
      name: "",
      email: "",
      password: "",
      organization_name: "My organization",
      site_name: "Main site",
    },
  });
  const { errors } = form.formState;
  const [name, email, password] = useWatch({
    control: form.control,
    name: ["name", "email", "password"],
  });
  const submit = form.handleSubmit((values) =>
    setup.mutate(
      { ...values, token },
      {
        onSuccess: () => void navigate({ to: "/", replace: true }),
        onError: (error) => showServerErrors(form, error, FIELDS),
      },
    ),
  );
  return (
    <form
      onSubmit={(event) => void submit(event)}
      onKeyDown={submitOnCtrlEnter}
      noValidate
      className="flex flex-col gap-4"
    >
      {setup.isError && <ProblemNote error={setup.error} />}
      <Field label="Your name" error={errors.name?.message}>
        {(control) => (
          // The form is all there is on this page.

          <Input autoComplete="name" autoFocus {...control} {...form.register("name")} />
        )}
      </Field>
      <Field label="E-mail" error={errors.email?.message} help="You sign in with it.">
        {(control) => (
          <Input type="email" autoComplete="username" {...control} {...form.register("email")} />
        )}
      </Field>
      <Field
        label="Password"
        error={errors.password?.message}
        help={<PasswordMeter password={password} mine={[name, email]} />}
      >
        {(control) => (
          <Input
            type="password"
            autoComplete="new-password"
            {...control}
            {...form.register("password")}
          />
        )}
      </Field>
      <div className="grid gap-4 sm:grid-cols-2">
        <Field label="Organization" error={errors.organization_name?.message}>
          {(control) => (
            <Input
              autoComplete="organization"
              {...control}
              {...form.register("organization_name")}
            />
          )}
        </Field>
        <Field label="First site" error={errors.site_name?.message}>
          {(control) => <Input autoComplete="off" {...control} {...form.register("site_name")} />}
        </Field>
      </div>
      <Button type="submit" variant="primary" className="h-9 w-full" busy={setup.isPending}>
        Create and sign in
      </Button>
    </form>
  );
}
