import { QueryClientProvider } from "@tanstack/react-query";
import { render, screen, waitFor } from "@testing-library/react";
import userEvent from "@testing-library/user-event";
import { describe, expect, it, vi } from "vitest";
import { SignInForm } from "@/features/auth/components/sign-in-form";
import { tokenFrom } from "@/features/auth/components/setup-page";
import { judgePassword } from "@/features/auth/password";
import { makeQueryClient } from "@/lib/api/query-client";
import { sessionLost } from "@/lib/session";

function answer(status: number, body: unknown) {
  return vi.fn<(request: Request) => Promise<Response>>(() =>
    Promise.resolve(
      new Response(JSON.stringify(body), {
        status,
        headers: { "Content-Type": status < 400 ? "application/json" : "application/problem+json" },
      }),
    ),
  );
}

function show(onDone = vi.fn()) {
  render(
    <QueryClientProvider client={makeQueryClient()}>
      <SignInForm onDone={onDone} />
    </QueryClientProvider>,
  );
  return onDone;
}

describe("passwords in words", () => {
  it.each([
    ["short", 0],
    ["aaaaaaaaaaaaaaaa", 1],
    ["123456789012345", 1],
    ["passwordpassword", 1],
    ["ada.brandt.2026", 1],
    ["tapestry lamp", 2],
    ["correct horse battery staple", 3],
  ])("judges %s as %d", (password, level) => {
    expect(judgePassword(password, ["Ada Brandt", "ada@example.com"]).level).toBe(level);
  });
  it("says how many characters are missing", () => {
    expect(judgePassword("eleven char").words).toBe("Too short: 1 more to go.");
  });
});

describe("the set-up link", () => {
  it("carries its token in the fragment", () => {
    expect(tokenFrom("#token=abc-123")).toBe("abc-123");
    expect(tokenFrom("#token=")).toBeNull();
    expect(tokenFrom("")).toBeNull();
  });
});

describe("signing in", () => {
  it("asks for what is missing, beside the field, and sends nothing", async () => {
    const fetch = answer(200, {});
    vi.stubGlobal("fetch", fetch);
    show();
    await userEvent.click(screen.getByRole("button", { name: "Sign in" }));
    expect(await screen.findByText(/Enter an e-mail address/)).toBeTruthy();
    expect(screen.getByLabelText("E-mail").getAttribute("aria-invalid")).toBe("true");
    expect(fetch).not.toHaveBeenCalled();
  });

  it("keeps the e-mail after a wrong password, says why, and does not take it for a lost session", async () => {
    vi.stubGlobal(
      "fetch",
      answer(401, {
        type: "urn:breeze:problem:unauthenticated",
        title: "E-mail or password is wrong",
        status: 401,
        detail: "Check both and try again.",
        request_id: "req-1",
      }),
    );
    const onDone = show();
    await userEvent.type(screen.getByLabelText("E-mail"), "ada@example.com");
    await userEvent.type(screen.getByLabelText("Password"), "wrong");
    await userEvent.click(screen.getByRole("button", { name: "Sign in" }));
    expect(await screen.findByText("E-mail or password is wrong")).toBeTruthy();
    expect(screen.getByText("req-1")).toBeTruthy();
    expect(screen.getByLabelText<HTMLInputElement>("E-mail").value).toBe("ada@example.com");
    expect(screen.getByLabelText<HTMLInputElement>("Password").value).toBe("");
    expect(sessionLost.get()).toBe(false);
    expect(onDone).not.toHaveBeenCalled();
  });

  it("goes on with the session that it got", async () => {
    const fetch = answer(200, { csrf_token: "c", user: { name: "Ada" } });
    vi.stubGlobal("fetch", fetch);
    const onDone = show();
    await userEvent.type(screen.getByLabelText("E-mail"), "ada@example.com");
    await userEvent.type(
      screen.getByLabelText("Password"),
      "correct horse{Control>}{Enter}{/Control}",
    );
    await waitFor(() => expect(onDone).toHaveBeenCalled());
    const request = fetch.mock.calls[0]?.[0] as Request;
    expect(await request.json()).toEqual({ email: "ada@example.com", password: "correct horse" });
  });
});
