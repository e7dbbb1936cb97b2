/* upstream.c - a mock AI provider: one thread, epoll, loopback only.
 *
 *   upstream PORT [key=value ...]
 *
 * Any POST/GET answers.  What is answered, in this order:
 *   path holds /bytes/N           N deterministic bytes that begin as a PNG does (image/png)
 *   path holds /images/           an image answer whose link leads to our own /bytes/`size`
 *   body holds "stream":true      an SSE chat completion, one HTTP chunk per event
 *   otherwise                     a JSON chat completion of `size` bytes
 * Keys (defaults on the command line; per request by the text "mock:k=v,k=v" anywhere
 * in the head or in the first 64 KiB of the body, e.g. in the "user" field):
 *   size=1024      bytes of a JSON reply        chunks=50    SSE events
 *   interval=20    ms between SSE events        delay=0      ms before the first byte
 *   pad=0          extra bytes per SSE event    status=200   HTTP status
 *   cut=0          close the connection after that many SSE events (a broken upstream)
 *   burst=1        events per write
 * Each SSE event's content starts with '@' + 19 digits: CLOCK_MONOTONIC ns at the write,
 * so load.c can tell what the gateway added to every single event.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

typedef struct { long size, chunks, interval, delay, pad, status, cut, burst; } cfg_t;
static cfg_t dflt = {1024, 50, 20, 0, 0, 200, 0, 1};
enum { ST_READ, ST_WAIT, ST_JSON, ST_BYTES, ST_SSE };
typedef struct conn {
  int fd, st, closing, want_out;
  char *in; size_t in_len, in_cap;
  size_t head_len; long body_left; int chunked; size_t scan;
  char *out; size_t out_len, out_off, out_cap;
  uint64_t left, pos;              /* ST_BYTES */
  long sent; int sse; uint64_t due; int hidx; cfg_t c;
} conn;

static int ep, port; static conn **heap; static int hn, hcap;
static char *pat; enum { PAT = 1 << 20 };
static uint64_t now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec * 1000000000ull + t.tv_nsec; }

static void hswap(int a, int b) { conn *t = heap[a]; heap[a] = heap[b]; heap[b] = t; heap[a]->hidx = a; heap[b]->hidx = b; }
static void hup(int i) { while (i && heap[(i - 1) / 2]->due > heap[i]->due) { hswap(i, (i - 1) / 2); i = (i - 1) / 2; } }
static void hdown(int i) { for (;;) { int l = 2 * i + 1, m = i; if (l < hn && heap[l]->due < heap[m]->due) m = l; if (l + 1 < hn && heap[l + 1]->due < heap[m]->due) m = l + 1; if (m == i) return; hswap(i, m); i = m; } }
static void hadd(conn *c) { if (hn == hcap) { hcap = hcap ? hcap * 2 : 1024; heap = realloc(heap, hcap * sizeof *heap); } c->hidx = hn; heap[hn++] = c; hup(c->hidx); }
static void hdel(conn *c) { int i = c->hidx; if (i < 0) return; c->hidx = -1; hn--; if (i != hn) { heap[i] = heap[hn]; heap[i]->hidx = i; hup(i); hdown(heap[i]->hidx); } }

static void setcfg(cfg_t *c, const char *s, const char *end) {
  while (s < end) {
    const char *k = s; while (s < end && ((*s >= 'a' && *s <= 'z'))) s++;
    if (s >= end || *s != '=') return;
    size_t n = s - k; s++; long v = 0; while (s < end && *s >= '0' && *s <= '9') v = v * 10 + *s++ - '0';
#define K(f) if (n == sizeof #f - 1 && !memcmp(k, #f, n)) c->f = v;
    K(size) K(chunks) K(interval) K(delay) K(pad) K(status) K(cut) K(burst)
    if (s < end && *s == ',') s++; else return;
  }
}
static void events(conn *c, uint32_t ev) { struct epoll_event e = {.events = ev, .data.ptr = c}; epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &e); }
static void drop(conn *c) { hdel(c); close(c->fd); free(c->in); free(c->out); free(c); }
static char *room(conn *c, size_t n) {
  if (c->out_off == c->out_len) c->out_off = c->out_len = 0;
  if (c->out_len + n > c->out_cap) { c->out_cap = c->out_len + n + 1024; c->out = realloc(c->out, c->out_cap); }
  return c->out + c->out_len;
}
static int flush(conn *c) { /* 1 all out, 0 blocked, -1 dead */
  for (;;) {
    if (c->out_off < c->out_len) {
      ssize_t n = send(c->fd, c->out + c->out_off, c->out_len - c->out_off, MSG_NOSIGNAL);
      if (n < 0) { if (errno == EAGAIN) break; return -1; }
      c->out_off += n; continue;
    }
    if (c->st == ST_BYTES && c->left) {
      size_t o = c->pos % PAT, m = PAT - o; if (m > c->left) m = c->left;
      ssize_t n = send(c->fd, pat + o, m, MSG_NOSIGNAL);
      if (n < 0) { if (errno == EAGAIN) break; return -1; }
      c->pos += n; c->left -= n; continue;
    }
    if (c->want_out) { c->want_out = 0; events(c, EPOLLIN); }
    return 1;
  }
  if (!c->want_out) { c->want_out = 1; events(c, EPOLLIN | EPOLLOUT); }
  return 0;
}
static const char *reason(long s) { return s == 200 ? "OK" : s == 429 ? "Too Many Requests" : s == 500 ? "Internal Server Error" : "Status"; }
static int handle(conn *c);
static int finish(conn *c) { /* the answer is wholly written or buffered */
  int r = flush(c); if (r < 0) return -1; if (r == 0) return 0;
  if (c->closing) return -1;
  c->st = ST_READ; return handle(c);
}
static int start(conn *c) {
  if (c->st == ST_WAIT && c->sse == 2) { c->st = ST_BYTES; c->pos = 0;
    char *p = room(c, 256); c->out_len += sprintf(p, "HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %llu\r\n\r\n", "image/png", (unsigned long long)c->left);
    return finish(c);
  }
  if (c->sse == 1) { c->st = ST_SSE; c->sent = 0;
    char *p = room(c, 256); c->out_len += sprintf(p, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n");
    c->due = now(); hadd(c); return flush(c) < 0 ? -1 : 0;
  }
  if (c->sse == 3) { c->st = ST_JSON; char b[256]; int n = sprintf(b, "{\"created\":1,\"data\":[{\"url\":\"http://127.0.0.1:%d/bytes/%ld\"}]}", port, c->c.size);
    char *p = room(c, 512); c->out_len += sprintf(p, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", n, b);
    return finish(c);
  }
  c->st = ST_JSON; long n = c->c.size; if (n < 220) n = 220;
  char *p = room(c, n + 256), *q = p;
  q += sprintf(q, "HTTP/1.1 %ld %s\r\nContent-Type: application/json\r\nContent-Length: %ld\r\n\r\n", c->c.status, reason(c->c.status), n);
  char tail[160]; int tn = sprintf(tail, "\"},\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":12,\"total_tokens\":21}}");
  char *b = q; q += sprintf(q, "{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion\",\"created\":1,\"model\":\"m\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"");
  memset(q, 'x', n - tn - (q - b)); q = b + n - tn; memcpy(q, tail, tn); c->out_len += (q + tn) - p;
  return finish(c);
}
static int tick(conn *c) { /* due and already off the heap */
  if (c->st == ST_WAIT) return start(c);
  if (c->c.cut && c->sent >= c->c.cut) return -1;
  if (c->sent < c->c.chunks) {
    for (long b = 0; b < c->c.burst && c->sent < c->c.chunks; b++, c->sent++) {
      char *p = room(c, 512 + c->c.pad), ev[400]; int m = sprintf(ev, "data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"@%019llu", (unsigned long long)now());
      const char *tl = " tok\"},\"finish_reason\":null}]}\n\n"; int tn = strlen(tl);
      int h = sprintf(p, "%lx\r\n", m + c->c.pad + tn); memcpy(p + h, ev, m); memset(p + h + m, 'y', c->c.pad); memcpy(p + h + m + c->c.pad, tl, tn); memcpy(p + h + m + c->c.pad + tn, "\r\n", 2);
      c->out_len += h + m + c->c.pad + tn + 2;
    }
    if (c->out_len - c->out_off > (8u << 20)) return -1; /* a client that never reads */
    if (flush(c) < 0) return -1;
    c->due += c->c.interval * 1000000ull; hadd(c); return 0;
  }
  const char *u = "data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":50,\"total_tokens\":59}}\n\n", *d = "data: [DONE]\n\n";
  char *p = room(c, 512); c->out_len += sprintf(p, "%zx\r\n%s\r\n%zx\r\n%s\r\n0\r\n\r\n", strlen(u), u, strlen(d), d);
  return finish(c);
}
static int handle(conn *c) { /* parse what is buffered; -1 = drop */
  while (c->st == ST_READ) {
    if (!c->head_len) {
      char *e = c->in_len ? memmem(c->in, c->in_len, "\r\n\r\n", 4) : NULL;
      if (!e) return c->in_len > 65536 ? -1 : 0;
      c->head_len = e + 4 - c->in; c->body_left = 0; c->chunked = 0; c->closing = 0;
      for (char *l = memchr(c->in, '\n', c->head_len) + 1; l < e; ) {
        char *n = memchr(l, '\n', c->in + c->head_len - l); if (!n) break;
        if (!strncasecmp(l, "content-length:", 15)) c->body_left = strtol(l + 15, 0, 10);
        else if (!strncasecmp(l, "transfer-encoding:", 18)) c->chunked = 1;
        else if (!strncasecmp(l, "connection:", 11) && strcasestr(l, "close") && strcasestr(l, "close") < n) c->closing = 1;
        else if (!strncasecmp(l, "expect:", 7)) { char *p = room(c, 64); c->out_len += sprintf(p, "HTTP/1.1 100 Continue\r\n\r\n"); if (flush(c) < 0) return -1; }
        l = n + 1;
      }
      c->scan = c->head_len;
    }
    size_t have = c->in_len - c->head_len, used;
    if (c->chunked) { /* wait for the last chunk; walk the framing */
      size_t o = c->scan; int done = 0;
      for (;;) {
        char *nl = o < c->in_len ? memmem(c->in + o, c->in_len - o, "\r\n", 2) : NULL; if (!nl) break;
        unsigned long sz = strtoul(c->in + o, 0, 16); size_t nx = nl + 2 - c->in + sz + 2;
        if (nx > c->in_len) break; o = nx; c->scan = o; if (!sz) { done = 1; break; }
      }
      if (!done) return 0; used = o;
    } else { if ((long)have < c->body_left) return 0; used = c->head_len + c->body_left; }
    c->c = dflt; char *lim = c->in + (used < c->head_len + 65536 ? used : c->head_len + 65536);
    char *m = memmem(c->in, lim - c->in, "mock:", 5); if (m) setcfg(&c->c, m + 5, lim);
    char *eol = memchr(c->in, '\r', c->head_len), *by = memmem(c->in, eol - c->in, "/bytes/", 7);
    char *bd = c->in + c->head_len; c->sse = 0;
    if (memmem(c->in, eol - c->in, "/images/", 8)) c->sse = 3;
    else if (by) { c->sse = 2; c->left = strtoull(by + 7, 0, 10); }
    else { char *s = lim > bd ? memmem(bd, lim - bd, "\"stream\":", 9) : NULL; if (s) { s += 9; while (s < lim && *s == ' ') s++; if (s < lim && *s == 't') c->sse = 1; } }
    memmove(c->in, c->in + used, c->in_len - used); c->in_len -= used; c->head_len = 0;
    if (c->in_cap > (1u << 20) && !c->in_len) { free(c->in); c->in = 0; c->in_cap = 0; }
    c->st = ST_WAIT;
    if (c->c.delay) { c->due = now() + c->c.delay * 1000000ull; hadd(c); return 0; }
    return start(c);
  }
  return 0;
}
int main(int ac, char **av) {
  if (ac < 2) { fprintf(stderr, "upstream PORT [key=value ...]\n"); return 2; }
  for (int i = 2; i < ac; i++) setcfg(&dflt, av[i], av[i] + strlen(av[i]));
  signal(SIGPIPE, SIG_IGN);
  pat = malloc(PAT); uint32_t x = 2463534242u; for (int i = 0; i < PAT; i++) { x ^= x << 13; x ^= x >> 17; x ^= x << 5; pat[i] = x; } memcpy(pat, "\x89PNG\r\n\x1a\n", 8);
  port = atoi(av[1]);
  int ls = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1; setsockopt(ls, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one); setsockopt(ls, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one);
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  if (bind(ls, (void *)&a, sizeof a) || listen(ls, 8192)) { perror("listen"); return 1; }
  ep = epoll_create1(0); struct epoll_event e = {.events = EPOLLIN, .data.ptr = NULL}; epoll_ctl(ep, EPOLL_CTL_ADD, ls, &e);
  static struct epoll_event evs[1024];
  for (;;) {
    int to = -1; if (hn) { uint64_t t = now(); to = heap[0]->due <= t ? 0 : (int)((heap[0]->due - t + 999999) / 1000000); }
    int n = epoll_wait(ep, evs, 1024, to);
    for (int i = 0; i < n; i++) {
      conn *c = evs[i].data.ptr;
      if (!c) { for (;;) { int fd = accept4(ls, 0, 0, SOCK_NONBLOCK); if (fd < 0) break; setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
          c = calloc(1, sizeof *c); c->fd = fd; c->hidx = -1; struct epoll_event q = {.events = EPOLLIN, .data.ptr = c}; epoll_ctl(ep, EPOLL_CTL_ADD, fd, &q); } continue; }
      int bad = 0;
      if (evs[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
        for (;;) {
          if (c->in_cap - c->in_len < 16384) { c->in_cap = c->in_cap ? c->in_cap * 2 : 16384; if (c->in_cap - c->in_len < 16384) c->in_cap += 16384; c->in = realloc(c->in, c->in_cap); }
          size_t rm = c->in_cap - c->in_len; ssize_t r = recv(c->fd, c->in + c->in_len, rm, 0);
          if (r > 0) { c->in_len += r; if ((size_t)r < rm) break; continue; }
          if (r < 0 && errno == EAGAIN) break;
          bad = 1; break;
        }
        if (!bad && handle(c) < 0) bad = 1;
      }
      if (!bad && (evs[i].events & EPOLLOUT)) { if (c->st == ST_SSE || c->st == ST_READ) { int r = flush(c); if (r < 0) bad = 1; else if (r == 1 && c->st == ST_SSE && c->hidx < 0) bad = finish(c) < 0; } else bad = finish(c) < 0; }
      if (bad) drop(c);
    }
    uint64_t t = now(); while (hn && heap[0]->due <= t) { conn *c = heap[0]; hdel(c); if (tick(c) < 0) drop(c); }
  }
}
