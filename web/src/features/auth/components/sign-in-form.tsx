// E-mail and password. The e-mail stays when the password was wrong.
import { zodResolver } from "@hookform/resolvers/zod";
import { useForm } from "react-hook-form";
import { Button } from "@/components/ui/button";
import { Field, Input, showServerErrors, submitOnCtrlEnter } from "@/components/ui/form";
import { ProblemNote } from "@/components/ui/problem";
import { useSignIn, type Credentials } from "@/features/auth/queries";
import { z } from "@/lib/zod";

const schema = z.object({
  email: z.email("Enter an e-mail address, such as ada@example.com."),
  password: z.string().min(1, "Enter your password."),
});

export function SignInForm({ email, onDone }: { email?: string; onDone: () => void }) {
  const signIn = useSignIn();
  const form = useForm<Credentials>({
    resolver: zodResolver(schema),
    defaultValues: { email: email ?? "", password: "" },
  });
  const { errors } = form.formState;
  const submit = form.handleSubmit((values) =>
    signIn.mutate(values, {
      onSuccess: onDone,
      onError: (error) => {
        showServerErrors(form, error, ["email", "password"]);
        form.resetField("password");
        form.setFocus("password");
      },
    }),
  );
  return (
    <form
      onSubmit={(event) => void submit(event)}
      onKeyDown={submitOnCtrlEnter}
      noValidate
      className="flex flex-col gap-4"
    >
      {signIn.isError && <ProblemNote error={signIn.error} />}
      <Field label="E-mail" error={errors.email?.message}>
        {(control) => (
          // The form is all there is on this page.

          <Input
            type="email"
            autoComplete="username"
            autoFocus={email === undefined}
            {...control}
            {...form.register("email")}
          />
        )}
      </Field>
      <Field label="Password" error={errors.password?.message}>
        {(control) => (
          <Input
            type="password"
            autoComplete="current-password"
            autoFocus={email !== undefined}
            {...control}
            {...form.register("password")}
          />
        )}
      </Field>
      <Button type="submit" variant="primary" className="h-9 w-full" busy={signIn.isPending}>
        Sign in
      </Button>
    </form>
  );
}
