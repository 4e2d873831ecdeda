/**
 * Who may call what: written by hand, reviewed by people, and checked against every route by permissions.int.spec.ts. It is not generated from the code.
 * A line is a route and a column for each role: `x` may call it, `.` is refused with 403 PERMISSION_DENIED. Routes under "Without an API key" are
 * open to whoever has a license key, or to everybody; where "or the license's own key" is said, `Authorization: License <license key>` will do as well.
 */
export const permissionTable = `
                                                  super_admin  license_manager  support  onboarding  auditor  viewer
Anybody with an API key
  GET    /me                                           x              x             x          x         x        x
  GET    /environments                                 x              x             x          x         x        x

Reading catalog, customers, orders, licenses, activations and events: license.read
  GET    /products                                     x              x             x          x         x        x
  GET    /products/:id                                 x              x             x          x         x        x
  GET    /products/:id/plans                           x              x             x          x         x        x
  GET    /plans/:id                                    x              x             x          x         x        x
  GET    /generators                                   x              x             x          x         x        x
  GET    /generators/:id                               x              x             x          x         x        x
  GET    /customers                                    x              x             x          x         x        x
  GET    /customers/:id                                x              x             x          x         x        x
  GET    /orders                                       x              x             x          x         x        x
  GET    /orders/:id                                   x              x             x          x         x        x
  GET    /licenses                                     x              x             x          x         x        x
  GET    /licenses/suggest                             x              x             x          x         x        x
  GET    /licenses/totals                              x              x             x          x         x        x
  GET    /licenses/:id                                 x              x             x          x         x        x
  GET    /licenses/:id/activations                     x              x             x          x         x        x
  GET    /licenses/:id/denials                         x              x             x          x         x        x
  GET    /denials                                      x              x             x          x         x        x
  GET    /licenses/:id/events                          x              x             x          x         x        x
  GET    /licenses/:id/usage                           x              x             x          x         x        x
  GET    /licenses/:id/usage/explain                   x              x             x          x         x        x
  GET    /sweeps                                       x              x             x          x         x        x

Customers, orders and issuing: license.issue
  POST   /customers                                    x              x             x          x         .        .
  PATCH  /customers/:id                                x              x             x          x         .        .
  POST   /orders                                       x              x             x          x         .        .
  POST   /licenses                                     x              x             x          x         .        .
  POST   /licenses/:id/license-file                    x              x             x          x         .        .

Products, plans and generators: catalog.manage
  POST   /products                                     x              x             .          .         .        .
  PATCH  /products/:id                                 x              x             .          .         .        .
  POST   /products/:id/archive                         x              x             .          .         .        .
  POST   /products/:id/plans                           x              x             .          .         .        .
  PATCH  /plans/:id                                    x              x             .          .         .        .
  POST   /generators                                   x              x             .          .         .        .
  PATCH  /generators/:id                               x              x             .          .         .        .

What happens to a license: license.manage. Erasing one that was ever activated needs license.erase besides
  PATCH  /licenses/:id                                 x              x             x          .         .        .
  POST   /licenses/:id/assign                          x              x             x          .         .        .
  POST   /licenses/:id/inactivate                      x              x             x          .         .        .
  POST   /licenses/:id/reactivate                      x              x             x          .         .        .
  POST   /licenses/:id/suspend                         x              x             x          .         .        .
  POST   /licenses/:id/unsuspend                       x              x             x          .         .        .
  POST   /licenses/:id/renew                           x              x             x          .         .        .
  POST   /licenses/:id/regenerate-key                  x              x             x          .         .        .
  DELETE /licenses/:id                                 x              x             x          .         .        .
  DELETE /licenses/:id/activations/:instanceId         x              x             x          .         .        .
  POST   /subscriptions/:id/invalidate                 x              x             x          .         .        .
  POST   /subscriptions/:id/restore                    x              x             x          .         .        .
  POST   /licenses/:id/directives                      x              x             x          .         .        .

Bulk work: jobs.manage
  POST   /generators/:id/batches                       x              .             .          .         .        .
  POST   /imports                                      x              .             .          .         .        .
  GET    /jobs                                         x              .             .          .         .        .
  GET    /jobs/:id                                     x              .             .          .         .        .
  GET    /jobs/:id/events                              x              .             .          .         .        .
  POST   /jobs/:id/cancel                              x              .             .          .         .        .
  GET    /jobs/:id/result                              x              .             .          .         .        .

All licenses as a file: license.export
  GET    /licenses/export                              x              x             x          .         .        .

To carry to a machine that cannot ask: license.preview
  POST   /licenses/:id/offline-file                    x              x             x          .         .        .

What a license's boxes do: license.manage, or the license's own key
  POST   /licenses/:id/activate                        x              x             x          .         .        .
  POST   /licenses/:id/heartbeat                       x              x             x          .         .        .
  POST   /licenses/:id/stream/ack                      x              x             x          .         .        .

What a license's boxes listen to: license.read, or the license's own key
  GET    /licenses/:id/stream                          x              x             x          x         x        x

For good: license.revoke
  POST   /licenses/:id/revoke                          x              x             x          .         .        .
  POST   /licenses/:id/rebind                          x              x             x          .         .        .
  POST   /licenses/health/sweep                        x              x             x          .         .        .

The clock of a test environment, and what is taken for abuse: settings.manage
  GET    /abuse-rules                                  x              .             .          .         .        .
  PUT    /abuse-rules                                  x              .             .          .         .        .
  GET    /environments/:name/clock                     x              .             .          .         .        .
  PUT    /environments/:name/clock                     x              .             .          .         .        .
  POST   /environments/:name/clock/advance             x              .             .          .         .        .

API keys: access.manage
  POST   /api-keys                                     x              .             .          .         .        .
  GET    /api-keys                                     x              .             .          .         .        .
  GET    /api-keys/:id                                 x              .             .          .         .        .
  POST   /api-keys/:id/rotate                          x              .             .          .         .        .
  DELETE /api-keys/:id                                 x              .             .          .         .        .

The keys that sign licenses: signing.manage
  GET    /signing-keys                                x              .             .          .         .        .
  POST   /signing-keys                                x              .             .          .         .        .
  POST   /signing-keys/:kid/activate                  x              .             .          .         .        .
  POST   /signing-keys/:kid/retire                    x              .             .          .         .        .
  POST   /signing-keys/:kid/revoke                    x              .             .          .         .        .

What is told to other systems: webhook.manage
  GET    /webhook-endpoints                            x              .             .          .         .        .
  POST   /webhook-endpoints                            x              .             .          .         .        .
  GET    /webhook-endpoints/:id                        x              .             .          .         .        .
  PATCH  /webhook-endpoints/:id                        x              .             .          .         .        .
  DELETE /webhook-endpoints/:id                        x              .             .          .         .        .
  POST   /webhook-endpoints/:id/rotate-secret          x              .             .          .         .        .
  POST   /webhook-endpoints/:id/test                   x              .             .          .         .        .
  POST   /webhook-endpoints/:id/recover                x              .             .          .         .        .
  GET    /webhook-deliveries                           x              .             .          .         .        .
  GET    /webhook-deliveries/:id                       x              .             .          .         .        .
  POST   /webhook-deliveries/:id/resend                x              .             .          .         .        .

Without an API key
  POST   /license/activate
  POST   /license/validate
  POST   /license/deactivate
  POST   /license/usage
  GET    /health/live
  GET    /health/ready
  GET    /metrics
  GET    /openapi.json
  GET    /.well-known/jwks.json
  GET    /.well-known/keyledger-root.json
`;
