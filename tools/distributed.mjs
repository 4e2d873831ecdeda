// `npm run distributed`: builds what has changed and runs every service as a process of its own, with NATS and PostgreSQL.
import './build.mjs';

await import('../apps/distributed/dist/main.js');
