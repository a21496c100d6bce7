import { Pool, type PoolConfig } from 'pg';

type Environment = Readonly<Record<string, string | undefined>>;

/** Most connections of one service. Four services with 20 each would take 80 of the server's 97. */
const DEFAULT_POOL_SIZE = 5;

/**
 * Reads the pool's settings from the environment.
 *
 * DATABASE_URL wins where it is set, for it alone can say how TLS is verified (`sslmode=verify-full&sslrootcert=…`);
 * else PGHOST, PGPORT, PGDATABASE, PGUSER and PGPASSWORD. DATABASE_POOL_SIZE is the most connections to open.
 *
 * @throws Error naming the variable that is missing or not a number; never with its value.
 */
export function poolConfiguration(environment: Environment = process.env): PoolConfig {
  const shared: PoolConfig = {
    max: wholeNumber(environment, 'DATABASE_POOL_SIZE', DEFAULT_POOL_SIZE),
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
    host: environment.PGHOST ?? 'localhost',
    port: wholeNumber(environment, 'PGPORT', 5432),
    database: environment.PGDATABASE ?? 'swarm',
    user: environment.PGUSER ?? 'swarm',
    password: environment.PGPASSWORD,
  };
}

/** Makes a pool with {@link poolConfiguration}. An idle connection that breaks is reported, and does not end the service. */
export function createPool(environment: Environment = process.env, report: (error: Error) => void = console.error): Pool {
  const pool = new Pool(poolConfiguration(environment));
  pool.on('error', report);
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
