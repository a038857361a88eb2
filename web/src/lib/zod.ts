// zod without code generation: a strict content security policy refuses `new Function`.
import { config, z } from "zod";

config({ jitless: true });

export { z };
