import { readFileSync } from 'node:fs';
import { Pool, type PoolConfig } from 'pg';

export type Environment = Readonly<Record<string, string | undefined>>;

/** Choices of the service; the environment decides everything else. */
export interface PoolOptions {
  /**
   * Most connections that the pool opens; DATABASE_POOL_SIZE or 5 if not given. Each process has a pool of its own: a
   * service that pm2 runs in cluster mode opens as many for each of its instances.
   */
  size?: number;
  /** What PostgreSQL shows of the service in pg_stat_activity. */
  applicationName?: string;
  /** How long a query may take; no limit if not given. */
  queryTimeoutMilliseconds?: number;
  /** False lets a server on another host be reached without TLS, where the environment does not say how. */
  verifyTls?: boolean;
  /** Where the settings are read from; the process's own environment if not given. */
  environment?: Environment;
  /** Told when an idle connection breaks; console.error if not given. */
  report?: (error: Error) => void;
}

/** Most connections of one service. Four services with the usual 20 would take 80 of the server's 97. */
const DEFAULT_POOL_SIZE = 5;

/**
 * Reads the pool's settings from the environment.
 *
 * DATABASE_URL wins where it is set, for it alone can say how TLS is verified (`sslmode=verify-full&sslrootcert=…`);
 * else PGHOST, PGPORT, PGDATABASE, PGUSER, PGPASSWORD, PGSSLMODE and PGSSLROOTCERT. A server on another host must show a
 * certificate that can be verified, unless one of them says otherwise.
 *
 * @throws Error naming the variable that is missing or wrong; never with its value.
 */
export function poolConfiguration(options: PoolOptions = {}): PoolConfig {
  const { size, environment = process.env, applicationName, queryTimeoutMilliseconds, verifyTls = true } = options;
  const shared: PoolConfig = {
    max: size ?? wholeNumber(environment, 'DATABASE_POOL_SIZE', DEFAULT_POOL_SIZE),
    idleTimeoutMillis: 30_000,
    connectionTimeoutMillis: 2_000,
    ...(applicationName === undefined ? {} : { application_name: applicationName }),
    ...(queryTimeoutMilliseconds === undefined ? {} : { query_timeout: queryTimeoutMilliseconds }),
  };
  if (environment.DATABASE_URL) {
    const { host, saysTls } = readUrl(environment.DATABASE_URL);
    // What the address says of TLS wins over `ssl`.
    const ssl = saysTls ? {} : { ssl: tls(environment, host, verifyTls) };
    return { ...shared, ...ssl, connectionString: environment.DATABASE_URL };
  }
  if (!environment.PGPASSWORD) {
    throw new Error('Neither DATABASE_URL nor PGPASSWORD is set: the service has no login to PostgreSQL.');
  }
  const host = environment.PGHOST || 'localhost';
  return {
    ...shared,
    host,
    port: wholeNumber(environment, 'PGPORT', 5432),
    database: environment.PGDATABASE || 'swarm',
    user: environment.PGUSER || 'swarm',
    password: environment.PGPASSWORD,
    ssl: tls(environment, host, verifyTls),
  };
}

/** Makes a pool with {@link poolConfiguration}. An idle connection that breaks is reported, and does not end the service. */
export function createPool(options: PoolOptions = {}): Pool {
  const pool = new Pool(poolConfiguration(options));
  pool.on('error', options.report ?? console.error);
  return pool;
}

function wholeNumber(environment: Environment, name: string, fallback: number): number {
  const text = environment[name];
  if (text === undefined || text === '') {
    return fallback;
  }
  if (!/^[1-9]\d*$/.test(text)) {
    throw new Error(`${name} is not a whole number above 0.`);
  }
  return Number(text);
}

/** Returns the host of an address, and whether the address says how the connection is protected. */
function readUrl(text: string): { host: string; saysTls: boolean } {
  let url: URL;
  try {
    url = new URL(text);
  } catch {
    throw new Error('DATABASE_URL is not the address of a database, such as postgresql://user:password@host/database.');
  }
  const host = url.searchParams.get('host') ?? decodeURIComponent(url.hostname);
  return { host, saysTls: [...url.searchParams.keys()].some((name) => name.startsWith('ssl')) };
}

/** Returns how TLS is used where DATABASE_URL does not say it: not with a server on this host, else verified. */
function tls(environment: Environment, host: string, verifyTls: boolean): NonNullable<PoolConfig['ssl']> {
  const mode = environment.PGSSLMODE || (verifyTls && !isThisHost(host) ? 'verify-full' : 'disable');
  if (mode === 'disable') {
    return false;
  }
  const authority = environment.PGSSLROOTCERT ? { ca: readAuthority(environment.PGSSLROOTCERT) } : {};
  return { ...authority, rejectUnauthorized: mode !== 'no-verify' };
}

function isThisHost(host: string): boolean {
  return host === '' || host === 'localhost' || /^(\/|127\.|\[?::1\]?$)/.test(host);
}

function readAuthority(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    throw new Error('PGSSLROOTCERT is not a file that the service can read.');
  }
}
