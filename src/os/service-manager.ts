import { hasLibc, libc } from "./syscall.ts";

/** Where systemd wants to hear from a service. */
const NOTIFY_VARIABLE = "NOTIFY_SOCKET";

/** The service manager that started this process, or nobody. */
export interface ServiceManager {
  /** Says how this process is, such as `READY=1` (sd_notify(3)). @returns whether it was told */
  tell(state: string): boolean;
}

/** Takes the address out of the environment, so that no child of ours speaks for us. */
export function serviceManager(environment: NodeJS.ProcessEnv = process.env): ServiceManager {
  const address = environment[NOTIFY_VARIABLE];
  delete environment[NOTIFY_VARIABLE];
  if (address === undefined || !/^[/@]./.test(address) || !hasLibc()) return { tell: () => false };
  return { tell: (state) => libc().sendDatagram(address, new TextEncoder().encode(state)) === 0 };
}
