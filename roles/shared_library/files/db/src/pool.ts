import { Pool, type PoolConfig } from 'pg';

export type Environment = Readonly<Record<string, string | undefined>>;

/** Choices of the service; the environment decides everything else. */
export interface PoolOptions {
  /** Most connections that the pool opens; DATABASE_POOL_SIZE or 5 if not given. */
  size?: number;
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
 * else PGHOST, PGPORT, PGDATABASE, PGUSER and PGPASSWORD.
 *
 * @throws Error naming the variable that is missing or not a number; never with its value.
 */
export function poolConfiguration({ size, environment = process.env }: PoolOptions = {}): PoolConfig {
  const shared: PoolConfig = {
    max: size ?? wholeNumber(environment, 'DATABASE_POOL_SIZE', DEFAULT_POOL_SIZE),
    idleTimeoutMillis: 30_000,
    connectionTimeoutMillis: 2_000,
  };
  if (environment.DATABASE_URL) {
    return { ...shared, connectionString: environment.DATABASE_URL };
  }
  if (!environment.PGPASSWORD) {
    throw new Error('Neither DATABASE_URL nor PGPASSWORD is set: the service has no login to PostgreSQL.');
  }
  return {
    ...shared,
    host: environment.PGHOST || 'localhost',
    port: wholeNumber(environment, 'PGPORT', 5432),
    database: environment.PGDATABASE || 'swarm',
    user: environment.PGUSER || 'swarm',
    password: environment.PGPASSWORD,
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
