/** Applies the SQL files from the command line: `node dist/migrations/command.js --help`. */
import { parseArgs } from 'node:util';
import { applyMigrations, type MigrationOptions } from './runner';

const HELP = `Apply the SQL files of the schema that the ledger does not know yet.

The login comes from DATABASE_URL, or from PGHOST, PGPORT, PGDATABASE, PGUSER and PGPASSWORD.

  --role NAME        become this role after the login: the owner of the tables
  --directory PATH   where the files are; those that the library was built with if not given
  --check            say what would be applied, and write nothing
  --warn-of-drift    go on if the tables are not as the applied files left them, and say how they differ
`;

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      role: { type: 'string' },
      directory: { type: 'string' },
      check: { type: 'boolean', default: false },
      'warn-of-drift': { type: 'boolean', default: false },
      help: { type: 'boolean', default: false },
    },
  });
  if (values.help === true) {
    process.stdout.write(HELP);
    return;
  }
  const options: MigrationOptions = {
    checkMode: values.check === true,
    failOnDrift: values['warn-of-drift'] !== true,
    ...(values.role === undefined ? {} : { role: values.role }),
    ...(values.directory === undefined ? {} : { directory: values.directory }),
  };
  process.stdout.write(`${JSON.stringify(await applyMigrations(options))}\n`);
}

main().catch((error: Error) => {
  process.stderr.write(`${error.message}\n`);
  process.exitCode = 1;
});
