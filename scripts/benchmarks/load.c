/* load.c - load generator for an HTTP/1.1 gateway: one thread, epoll, loopback targets only.
 *
 *   load http://127.0.0.1:PORT/path [options]          prints one JSON object
 *     -c N         connections (1)            -n N         stop after N answers
 *     -d SEC       stop after SEC (5)         -R RATE      open loop: RATE requests/s; latency is taken
 *     -m METHOD    (POST with -b, else GET)                from when the request was due, not from when it was sent,
 *                                                          and `unsent` counts those that were due and found no
 *                                                          free connection until the end
 *     -b FILE|TEXT body (@file, or text)      -H 'K: V'    header (repeat)
 *     -w SEC       warm-up, not counted (0)   --ramp MS    spread the first requests over MS
 *     --close      one request per connection --slow B     read at most B bytes/s on each connection
 *     --rcvbuf B   SO_RCVBUF                  --once       one request on each connection, then stop
 *     --settle SEC count chunks once every connection has had its first, at the latest SEC after the start
 *     --requests F whole requests, one after the other, each behind its length (4 bytes, big-endian); none is
 *                  sent twice (signed requests cannot be), and when all are sent the run ends
 * Latencies in ms. `ttfb` = first byte of the answer's body (SSE: first event). When the body holds the
 * mock's '@'+19 digit stamps, `chunk` is how long after the mock's write() each event came in here.
 * Bounded: at most 20000 connections and 600 s.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <math.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

typedef struct { uint32_t *v; size_t n, cap; double sum; } arr;
static void put(arr *a, uint64_t ns) { uint64_t u = ns / 100; if (u > UINT32_MAX) u = UINT32_MAX; if (a->n == a->cap) { a->cap = a->cap ? a->cap * 2 : 4096; a->v = realloc(a->v, a->cap * 4); } a->v[a->n++] = u; a->sum += u; }
static int cmp(const void *a, const void *b) { uint32_t x = *(uint32_t *)a, y = *(uint32_t *)b; return x < y ? -1 : x > y; }
static void show(const char *k, arr *a) {
  if (!a->n) return;
  qsort(a->v, a->n, 4, cmp);
#define P(q) (a->v[(size_t)fmin(a->n - 1, floor((q) * a->n))] / 1e4)
  printf(",\"%s\":{\"n\":%zu,\"mean\":%.3f,\"min\":%.3f,\"p50\":%.3f,\"p90\":%.3f,\"p99\":%.3f,\"p999\":%.3f,\"max\":%.3f}", k, a->n, a->sum / a->n / 1e4, a->v[0] / 1e4, P(.5), P(.9), P(.99), P(.999), a->v[a->n - 1] / 1e4);
}
enum { C_OFF, C_IDLE, C_HEAD, C_LEN, C_CSIZE, C_CDATA, C_CEND, C_TRAIL, C_EOF };
typedef struct { char *rq; size_t rl; int fd, st, closing, first, nd, paused, conning; size_t sent; uint64_t t0, left, csz; char h[8192]; int hl; uint64_t stamp; int status; double tokens; uint64_t tlast; } conn;
static conn *cs; static int nc = 1, ep, closef, once; static arr lat, ttfb, chunk;
static char *req, *more, *more_end; static size_t reql; static struct sockaddr_in sa; static uint64_t t_count, t_end; static double slow;
static uint64_t done, errs, non2xx, bytes, cbytes, reads, events, dones, maxdone, started; static int rcvbuf; static int hist[6];
static int *idle, nidle, opened; static uint64_t t_settle; /* 0: every chunk counts */
static uint64_t now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec * 1000000000ull + t.tv_nsec; }
static void mod(conn *c, uint32_t e) { struct epoll_event x = {.events = e, .data.u32 = c - cs}; epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &x); }
static int dial(conn *c) {
  c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0); if (c->fd < 0) { perror("socket"); exit(1); }
  int one = 1; setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  if (rcvbuf) setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &rcvbuf, sizeof rcvbuf);
  if (connect(c->fd, (void *)&sa, sizeof sa) && errno != EINPROGRESS) { close(c->fd); c->fd = -1; errs++; return -1; }
  struct epoll_event x = {.events = EPOLLIN | EPOLLOUT, .data.u32 = c - cs}; epoll_ctl(ep, EPOLL_CTL_ADD, c->fd, &x); c->conning = 1; return 0;
}
static void push(conn *c) {
  while (c->sent < c->rl) { ssize_t n = send(c->fd, c->rq + c->sent, c->rl - c->sent, MSG_NOSIGNAL); if (n < 0) { if (errno == EAGAIN) { mod(c, EPOLLIN | EPOLLOUT); return; } return; } c->sent += n; }
}
static void take(conn *c) { /* the next request of the file, or the one there is */
  if (!more) { c->rq = req; c->rl = reql; return; }
  unsigned char *p = (unsigned char *)more; c->rl = (size_t)p[0] << 24 | p[1] << 16 | p[2] << 8 | p[3]; c->rq = more + 4; more += 4 + c->rl;
  if (more >= more_end) t_end = now();
}
static void fire(conn *c, uint64_t t0) {
  if (more && more >= more_end) { c->st = C_OFF; return; }
  take(c);
  started++; c->t0 = t0; c->sent = 0; c->st = C_HEAD; c->hl = 0; c->first = 1; c->nd = -1; c->closing = 0;
  if (c->fd < 0) { if (dial(c)) { c->st = C_IDLE; return; } } else if (!c->conning) push(c);
}
static void hang(conn *c) { if (c->fd >= 0) close(c->fd); c->fd = -1; c->conning = 0; }
static double rate; static uint64_t t_start, sched;
static void again(conn *c) { /* the connection is free */
  uint64_t t = now();
  if (closef || c->closing) hang(c);
  if (t >= t_end || (maxdone && started >= maxdone) || once) { c->st = C_OFF; return; }
  if (rate > 0) { uint64_t due = t_start + (uint64_t)(sched * 1e9 / rate); if (due <= t) { sched++; fire(c, due); } else { c->st = C_IDLE; idle[nidle++] = c - cs; } return; }
  fire(c, t);
}
static void fin(conn *c) {
  uint64_t t = now(); dones++; if (c->status / 100 < 6) hist[c->status / 100]++;
  if (t >= t_count) { done++; put(&lat, t - c->t0); if (c->status / 100 != 2) non2xx++; }
  again(c);
}
static void scan(conn *c, char *p, size_t n, uint64_t t) { /* '@' + 19 digits */
  char *e = p + n;
  while (p < e) {
    if (c->nd < 0) { p = memchr(p, '@', e - p); if (!p) return; p++; c->nd = 0; c->stamp = 0; continue; }
    if (*p >= '0' && *p <= '9') { c->stamp = c->stamp * 10 + (*p++ - '0'); if (++c->nd == 19) { c->nd = -1; events++; if (t >= t_count && t >= t_settle && t >= c->stamp) put(&chunk, t - c->stamp); } }
    else c->nd = -1;
  }
}
static int feed(conn *c, char *b, ssize_t n) { /* 1 = answer complete */
  uint64_t t = now(); char *e = b + n;
  while (b < e) switch (c->st) {
    case C_HEAD: {
      int take = e - b; if (take > (int)sizeof c->h - 1 - c->hl) take = sizeof c->h - 1 - c->hl; if (!take) return -1;
      memcpy(c->h + c->hl, b, take); int old = c->hl; c->hl += take; c->h[c->hl] = 0;
      char *x = memmem(c->h + (old > 3 ? old - 3 : 0), c->hl - (old > 3 ? old - 3 : 0), "\r\n\r\n", 4); if (!x) { b += take; break; }
      b += (x + 4 - c->h) - old; x[2] = 0; c->status = atoi(c->h + 9);
      if (c->status == 100) { c->hl = 0; break; }
      char *l; c->st = C_EOF; if ((l = strcasestr(c->h, "\r\nconnection: close"))) c->closing = 1;
      if ((l = strcasestr(c->h, "\r\ntransfer-encoding: chunked"))) { c->st = C_CSIZE; c->csz = 0; }
      else if ((l = strcasestr(c->h, "\r\ncontent-length:"))) { c->left = strtoull(l + 17, 0, 10); c->st = C_LEN; if (!c->left) return 1; }
      break; }
    case C_LEN: case C_CDATA: case C_EOF: {
      size_t k = e - b; if (c->st != C_EOF && k > c->left) k = c->left;
      if (c->first) { c->first = 0; if (t >= t_count) put(&ttfb, t - c->t0); if (++opened == nc && t_settle > t) t_settle = t; }
      bytes += k; if (t >= t_count) cbytes += k; if (c->st != C_LEN) scan(c, b, k, t);
      b += k; if (c->st == C_EOF) break; c->left -= k;
      if (!c->left) { if (c->st == C_LEN) return 1; c->st = C_CEND; } break; }
    case C_CSIZE: { char ch = *b++; if (ch == '\n') { if (c->csz) { c->left = c->csz; c->st = C_CDATA; } else { c->st = C_TRAIL; c->hl = 0; } c->csz = 0; }
      else if (ch >= '0' && ch <= '9') c->csz = c->csz * 16 + ch - '0'; else if ((ch | 32) >= 'a' && (ch | 32) <= 'f') c->csz = c->csz * 16 + (ch | 32) - 'a' + 10; break; }
    case C_CEND: if (*b++ == '\n') c->st = C_CSIZE; break;
    case C_TRAIL: { char ch = *b++; if (ch == '\n') { if (!c->hl) return 1; c->hl = 0; } else if (ch != '\r') c->hl++; break; }
    default: return -1;
  }
  return 0;
}
int main(int ac, char **av) {
  const char *url = NULL, *method = NULL, *body = ""; char hdr[16384] = ""; double dur = 5, warm = 0, ramp = 0, settle = 0; size_t bl = 0;
  for (int i = 1; i < ac; i++) {
    char *o = av[i];
#define ARG (i + 1 < ac ? av[++i] : (exit(2), ""))
    if (*o != '-') url = o; else if (!strcmp(o, "-c")) nc = atoi(ARG); else if (!strcmp(o, "-n")) maxdone = atoll(ARG); else if (!strcmp(o, "-d")) dur = atof(ARG);
    else if (!strcmp(o, "-w")) warm = atof(ARG); else if (!strcmp(o, "-R")) rate = atof(ARG); else if (!strcmp(o, "-m")) method = ARG;
    else if (!strcmp(o, "-H")) { strcat(hdr, ARG); strcat(hdr, "\r\n"); } else if (!strcmp(o, "--ramp")) ramp = atof(ARG); else if (!strcmp(o, "--close")) closef = 1; else if (!strcmp(o, "--once")) once = 1;
    else if (!strcmp(o, "--requests")) { char *f = ARG; FILE *fp = fopen(f, "rb"); if (!fp) { perror(f); return 2; } struct stat st; fstat(fileno(fp), &st); more = malloc(st.st_size + 1); more_end = more + fread(more, 1, st.st_size, fp); fclose(fp); }
    else if (!strcmp(o, "--slow")) slow = atof(ARG); else if (!strcmp(o, "--rcvbuf")) rcvbuf = atoi(ARG);
    else if (!strcmp(o, "--settle")) settle = atof(ARG);
    else if (!strcmp(o, "-b")) { char *f = ARG; if (*f == '@') { FILE *fp = fopen(f + 1, "rb"); if (!fp) { perror(f); return 2; } struct stat st; fstat(fileno(fp), &st); char *m = malloc(st.st_size + 1); bl = fread(m, 1, st.st_size, fp); body = m; fclose(fp); } else { body = f; bl = strlen(f); } if (!method) method = "POST"; }
    else { fprintf(stderr, "unknown %s\n", o); return 2; }
  }
  char host[64] = "", path[4096] = "/"; int port = 80;
  if (!url || sscanf(url, "http://%63[^:/]:%d%4000s", host, &port, path) < 2) { fprintf(stderr, "load http://127.0.0.1:PORT/path ...\n"); return 2; }
  if (!strcmp(host, "localhost")) strcpy(host, "127.0.0.1");
  if (strncmp(host, "127.", 4)) { fprintf(stderr, "loopback only\n"); return 2; }
  if (nc > 20000) nc = 20000; if (dur > 600) dur = 600; if (!method) method = "GET";
  sa.sin_family = AF_INET; sa.sin_port = htons(port); inet_pton(AF_INET, host, &sa.sin_addr);
  struct rlimit rl; getrlimit(RLIMIT_NOFILE, &rl); rl.rlim_cur = rl.rlim_max; setrlimit(RLIMIT_NOFILE, &rl);
  req = malloc(bl + 24000); reql = sprintf(req, "%s %s HTTP/1.1\r\nHost: %s:%d\r\n%s", method, path, host, port, hdr);
  if (bl || !strcmp(method, "POST")) reql += sprintf(req + reql, "%sContent-Length: %zu\r\n", strcasestr(hdr, "content-type:") ? "" : "Content-Type: application/json\r\n", bl);
  if (closef) reql += sprintf(req + reql, "Connection: close\r\n");
  reql += sprintf(req + reql, "\r\n"); memcpy(req + reql, body, bl); reql += bl;
  ep = epoll_create1(0); cs = calloc(nc, sizeof *cs); idle = calloc(nc + 1, sizeof *idle);
  t_start = now(); t_count = t_start + warm * 1e9; t_end = t_start + (warm + dur) * 1e9; uint64_t t_hard = t_end + 30000000000ull, t_done = 0; if (settle > 0) t_settle = t_start + settle * 1e9;
  int tfd = -1; if (rate > 0) { /* epoll counts in milliseconds, which would be the most of a fast answer's time */
    tfd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK); struct epoll_event x = {.events = EPOLLIN, .data.u32 = UINT32_MAX}; epoll_ctl(ep, EPOLL_CTL_ADD, tfd, &x); }
  for (int i = 0; i < nc; i++) { cs[i].fd = -1; cs[i].st = C_IDLE; if (rate > 0) idle[nidle++] = i; }
  static struct epoll_event ev[1024]; static char buf[1 << 18]; int born = 0;
  for (;;) {
    uint64_t t = now(); int to = 100;
    if (rate > 0) { uint64_t due; while (nidle && t < t_end && (due = t_start + (uint64_t)(sched * 1e9 / rate)) <= t) { sched++; fire(&cs[idle[--nidle]], due); }
      if (nidle) { uint64_t at = t_start + (uint64_t)(sched * 1e9 / rate); struct itimerspec x = {.it_value = {at / 1000000000, at % 1000000000}}; timerfd_settime(tfd, TFD_TIMER_ABSTIME, &x, NULL); } }
    else while (born < nc && (ramp <= 0 || t >= t_start + (uint64_t)(ramp * 1e6 * born / nc))) { fire(&cs[born], now()); born++; }
    if (born < nc) to = 1;
    if (slow > 0) { to = 5; for (int i = 0; i < nc; i++) if (cs[i].paused && (t - cs[i].tlast) / 1e9 * slow >= 1024) { cs[i].paused = 0; mod(&cs[i], EPOLLIN); } }
    int live = 0; if (t >= t_end || (maxdone && dones >= maxdone) || once) { for (int i = 0; i < nc; i++) live += cs[i].st > C_IDLE; if ((!live && (rate > 0 || born >= nc)) || t > t_hard || (slow > 0 && t >= t_end)) { t_done = now(); break; } }
    int n = epoll_wait(ep, ev, 1024, to);
    for (int i = 0; i < n; i++) {
      if (ev[i].data.u32 == UINT32_MAX) { uint64_t x; (void)!read(tfd, &x, sizeof x); continue; }
      conn *c = &cs[ev[i].data.u32]; if (c->fd < 0) continue;
      if (c->conning && (ev[i].events & (EPOLLOUT | EPOLLERR | EPOLLHUP))) { int er = 0; socklen_t sl = sizeof er; getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &er, &sl); if (er) { errs++; hang(c); if (errs > 20000) { fprintf(stderr, "too many errors\n"); exit(1); } again(c); continue; } c->conning = 0; mod(c, EPOLLIN); push(c); continue; }
      if (ev[i].events & EPOLLOUT) { mod(c, EPOLLIN); push(c); }
      if (ev[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
        size_t want = sizeof buf; if (slow > 0) { uint64_t tn = now(); if (!c->tlast) c->tlast = tn; double can = (tn - c->tlast) / 1e9 * slow; if (can < 1024 && c->st > C_HEAD) { c->paused = 1; mod(c, 0); continue; } want = can < 1024 ? 1024 : can > sizeof buf ? sizeof buf : can; c->tlast = tn; }
        ssize_t r = recv(c->fd, buf, want, 0);
        if (r < 0 && errno == EAGAIN) continue;
        if (r <= 0) { if (c->st == C_EOF) { c->closing = 1; fin(c); continue; } int was = c->st; hang(c); if (was > C_IDLE) { errs++; if (errs > 20000) { fprintf(stderr, "too many errors\n"); exit(1); } again(c); } continue; }
        reads++; int f = feed(c, buf, r); if (f == 1) fin(c); else if (f < 0) { errs++; hang(c); again(c); }
      }
    }
  }
  uint64_t stop = t_done < t_end ? t_done : t_end; double el = (stop > t_count ? stop - t_count : 1) / 1e9;
  struct rusage ru; getrusage(RUSAGE_SELF, &ru); uint64_t due = rate > 0 ? (uint64_t)((t_end - t_start) / 1e9 * rate) : 0, unsent = due > sched ? due - sched : 0;
  printf("{\"url\":\"%s\",\"conns\":%d,\"secs\":%.3f,\"done\":%lu,\"rps\":%.1f,\"errors\":%lu,\"non2xx\":%lu,\"s2\":%d,\"s4\":%d,\"s5\":%d,\"unsent\":%lu,\"mbps\":%.1f,\"bytes\":%lu,\"reads\":%lu,\"events\":%lu,\"load_cpu\":%.2f", url, nc, el, done, done / el, errs, non2xx, hist[2], hist[4], hist[5], unsent, cbytes / el / 1e6, bytes, reads, events, ru.ru_utime.tv_sec + ru.ru_stime.tv_sec + (ru.ru_utime.tv_usec + ru.ru_stime.tv_usec) / 1e6);
  show("lat", &lat); show("ttfb", &ttfb); show("chunk", &chunk); printf("}\n"); return 0;
}
