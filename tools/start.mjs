// `npm start`: builds what has changed and runs the whole product in this process, on embedded stores.
import { enableCompileCache } from 'node:module';
import './build.mjs';

enableCompileCache();
await import('../dist/standalone.js');
