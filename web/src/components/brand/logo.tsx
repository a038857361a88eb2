// The mark of the product.
export function Logo({ size = 24 }: { size?: number }) {
  return (
    <svg viewBox="0 0 32 32" width={size} height={size} aria-hidden className="shrink-0">
      <rect width="32" height="32" rx="8" fill="#0e7490" />
      <path
        d="M7 12.5h11.2a3.4 3.4 0 1 0-3.2-4.6M7 17h15.2a3.6 3.6 0 1 1-3.4 4.9M7 21.5h6.4a2.6 2.6 0 1 1-2.4 3.6"
        fill="none"
        stroke="#fff"
        strokeWidth="2.2"
        strokeLinecap="round"
      />
    </svg>
  );
}
