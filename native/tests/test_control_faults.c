/* Every control call with every allocation and system call in it failing once: it says so, nothing is leaked (under
 * LeakSanitizer), nothing is half done, the packets of the others flow on, and the same call succeeds afterwards. */
#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <sys/epoll.h>

/* plane.h brings an ioctl that always succeeds. */
#define __wrap_ioctl plane_ioctl
#include "packet.h"
#include "plane.h"
#undef __wrap_ioctl

enum { SPI_IN = 0x1001, SPI_OUT = 0x3003, OTHER = 8, ROOM = 70000 };

/* ---- the n-th point fails ---- */

static _Thread_local bool armed; /* of the control thread only */
static int points_left;
static int points_seen;

static bool fails(int error) {
  if (!armed) return false;
  points_seen++;
  if (points_left-- != 0) return false;
  errno = error;
  return true;
}

#define WRAPPED(result, name, failed, error, parameters, arguments)                                                    \
  result __real_##name parameters;                                                                                     \
  result __wrap_##name parameters;                                                                                     \
  result __wrap_##name parameters {                                                                                    \
    return fails(error) ? failed : __real_##name arguments;                                                            \
  }

WRAPPED(void *, malloc, NULL, ENOMEM, (size_t size), (size))
WRAPPED(void *, calloc, NULL, ENOMEM, (size_t count, size_t size), (count, size))
WRAPPED(void *, aligned_alloc, NULL, ENOMEM, (size_t alignment, size_t size), (alignment, size))
WRAPPED(int, epoll_create1, -1, EMFILE, (int flags), (flags))
WRAPPED(int, eventfd, -1, EMFILE, (unsigned value, int flags), (value, flags))
WRAPPED(int, getsockname, -1, EBADF, (int fd, struct sockaddr *name, socklen_t *length), (fd, name, length))
WRAPPED(int, pthread_create, EAGAIN, EAGAIN,
        (pthread_t * thread, const pthread_attr_t *attributes, void *(*body)(void *), void *argument),
        (thread, attributes, body, argument))

int __real_epoll_ctl(int epoll, int operation, int fd, struct epoll_event *event);
int __wrap_epoll_ctl(int epoll, int operation, int fd, struct epoll_event *event);
int __wrap_epoll_ctl(int epoll, int operation, int fd, struct epoll_event *event) {
  if (operation == EPOLL_CTL_ADD && fails(ENOSPC)) return -1;
  return __real_epoll_ctl(epoll, operation, fd, event);
}

int __wrap_ioctl(int fd, unsigned long request, ...);
int __wrap_ioctl(int fd, unsigned long request, ...) {
  return fails(EBADFD) ? -1 : plane_ioctl(fd, request);
}

/* ---- the scene: one connection that works, beside which another comes and goes ---- */

static struct site site;
static struct peer peer_in, peer_out;
static uint64_t sequence_in;
static int other_tun[2][2], other_udp;
static struct sa_request other_requests[4];

static void flows_on(void) {
  static uint8_t packet[ROOM], inner[200], out[ROOM];
  struct virtio_net_hdr_v1 vnet;
  struct recipe recipe = {.protocol = P_UDP, .payload = 20};
  int tos;
  size_t length = build(inner, &recipe);
  size_t sealed = peer_seal(&peer_in, ++sequence_in, inner, length, 4, packet);
  datagram_send(peer_in.socket, &site.local, packet, sealed, 0, 0);
  CHECK(host_receive(&site, &vnet, out, ROOM, WAIT_MS) == (ssize_t)length);
  host_send(&site, NULL, inner, length);
  CHECK(datagram_receive(peer_out.socket, packet, ROOM, &tos, WAIT_MS) > 0 && get32(packet) == SPI_OUT);
}

static struct fault other_connect(void) {
  int fds[2] = {other_tun[0][1], other_tun[1][1]};
  return connection_add(site.plane, OTHER, fds, 2, 1400);
}

static struct fault other_disconnect(void) {
  return connection_remove(site.plane, OTHER);
}

static struct fault other_reopen(void) {
  return connection_reopen(site.plane, OTHER);
}

static struct fault nothing(void) {
  return NO_FAULT;
}

static struct fault in_add(void) {
  return sa_add(site.plane, &other_requests[0]);
}

static struct fault in_remove(void) {
  return sa_remove(site.plane, true, OTHER, other_requests[0].spi);
}

static struct fault out_add(void) {
  return sa_add(site.plane, &other_requests[1]);
}

static struct fault out_remove(void) {
  return sa_remove(site.plane, false, OTHER, other_requests[1].spi);
}

static struct fault cbc_add(void) {
  struct fault fault = sa_add(site.plane, &other_requests[2]);
  if (fault.sentence) return fault;
  fault = sa_add(site.plane, &other_requests[3]);
  if (fault.sentence) check_fault(sa_remove(site.plane, true, OTHER, other_requests[2].spi));
  return fault;
}

static struct fault cbc_remove(void) {
  check_fault(sa_remove(site.plane, true, OTHER, other_requests[2].spi));
  return sa_remove(site.plane, false, OTHER, other_requests[3].spi);
}

static struct fault name_in_policy(void) {
  return policies_replace(site.plane, OTHER, &other_requests[1].spi, 1);
}

static struct fault empty_policy(void) {
  return policies_replace(site.plane, OTHER, NULL, 0);
}

static struct fault out_restore(void) {
  struct fault fault = out_add();
  return fault.sentence ? fault : name_in_policy();
}

static struct fault move_remote(void) {
  struct endpoint remote = peer_out.local;
  remote.port++;
  return sa_move(site.plane, OTHER, other_requests[1].spi, &remote, NULL, -1);
}

static struct fault other_socket_add(void) {
  return socket_add(site.plane, 1, other_udp);
}

static struct fault other_socket_remove(void) {
  return socket_remove(site.plane, other_udp);
}

static struct fault egress_there(void) {
  struct egress_request request = {
      .local = peer_in.local, .remote = peer_out.local, .interface = 1, .mtu = 1500, .hops = 64};
  return egress_set(site.plane, OTHER, &request);
}

static struct fault egress_away(void) {
  return egress_set(site.plane, OTHER, NULL);
}

static struct fault read_statistics(void) {
  struct sa_statistics *rows = NULL;
  size_t count;
  struct fault fault = sa_statistics(site.plane, &rows, &count);
  free(rows);
  return fault;
}

static struct fault read_drops(void) {
  struct drop_row *rows = NULL;
  size_t count;
  struct fault fault = dataplane_drops(site.plane, &rows, &count);
  free(rows);
  return fault;
}

/* Everything of the other connection, SAs in both directions and the policy that names them. */
static struct fault other_restore(void) {
  check_fault(other_connect());
  check_fault(in_add());
  return out_restore();
}

struct state {
  size_t sas, connections, sockets, policies;
};

static struct state state_now(void) {
  struct state state = {0, 0, 0, 0};
  for (const struct sa *sa = site.plane->sas; sa; sa = sa->next)
    state.sas++;
  for (struct connection *c = site.plane->connections; c; c = c->next) {
    const struct policy *policy = atomic_load(&c->policy);
    state.connections++;
    state.policies += policy ? policy->count : 0;
  }
  for (const struct source *source = site.plane->sockets; source; source = source->next)
    state.sockets++;
  return state;
}

/* Until the call has been through without meeting its failing point. Returns how many points it has. */
static int fail_everywhere(const char *name, struct fault (*call)(void), struct fault (*undo)(void)) {
  int failed = 0;
  for (int n = 0;; n++) {
    struct state before = state_now();
    points_left = n;
    points_seen = 0;
    armed = true;
    struct fault fault = call();
    armed = false;
    if (fault.sentence) {
      failed++;
      struct state after = state_now();
      CHECK(memcmp(&before, &after, sizeof before) == 0);
    } else {
      check_fault(undo());
    }
    flows_on();
    if (points_seen <= n) break;
  }
  printf("   %s: %d points, %d failures told\n", name, points_seen, failed);
  return failed;
}

static void scene_open(void) {
  site_open(&site, 2, AF_INET, ESP_ENGINE_AUTO);
  peer_open(&peer_in, AF_INET, &plane_gcm, SPI_IN);
  peer_open(&peer_out, AF_INET, &plane_gcm, SPI_OUT);
  site_in(&site, SPI_IN, &plane_gcm, &peer_in.local);
  site_out(&site, SPI_OUT, &plane_gcm, &peer_out.local);
  for (int i = 0; i < 2; i++)
    CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, other_tun[i]) == 0);
  other_udp = loopback_socket(AF_INET);
  for (int i = 0; i < 4; i++) {
    const struct esp_suite *suite = i < 2 ? &plane_gcm_esn : &plane_cbc;
    other_requests[i] = sa_like(&site, i % 2 == 0, 0x5000 + (uint32_t)i, suite, &peer_in.local);
    other_requests[i].connection = OTHER;
  }
  sequence_in = 0;
}

static void scene_close(void) {
  peer_close(&peer_in);
  peer_close(&peer_out);
  site_close(&site);
  for (int i = 0; i < 4; i++)
    close(other_tun[i / 2][i % 2]);
  close(other_udp);
}

static void every_call_fails_whole(void) {
  scene_open();
  CHECK(fail_everywhere("connection_add", other_connect, other_disconnect) >= 6);
  check_fault(other_connect());
  CHECK(fail_everywhere("connection_reopen", other_reopen, nothing) >= 4);
  CHECK(fail_everywhere("sa_add in", in_add, in_remove) >= 5);
  CHECK(fail_everywhere("sa_add out", out_add, out_remove) >= 5);
  CHECK(fail_everywhere("sa_add cbc", cbc_add, cbc_remove) >= 10);
  check_fault(in_add());
  check_fault(out_add());
  CHECK(fail_everywhere("policies_replace", name_in_policy, empty_policy) >= 1);
  check_fault(name_in_policy());
  CHECK(fail_everywhere("sa_move", move_remote, nothing) >= 2);
  CHECK(fail_everywhere("egress_set", egress_there, egress_away) >= 1);
  check_fault(egress_there());
  CHECK(fail_everywhere("sa_remove in", in_remove, in_add) == 0); /* nothing is allocated */
  CHECK(fail_everywhere("sa_remove out", out_remove, out_restore) >= 1);
  CHECK(fail_everywhere("connection_remove", other_disconnect, other_restore) == 0);
  CHECK(fail_everywhere("socket_add", other_socket_add, other_socket_remove) >= 3);
  CHECK(fail_everywhere("sa_statistics", read_statistics, nothing) >= 1);
  CHECK(fail_everywhere("drops", read_drops, nothing) >= 1);
  CHECK(other_connect().sentence != NULL); /* it is still there, whole */
  check_fault(other_disconnect());
  CHECK(state_now().sas == 2 && state_now().connections == 1);
  scene_close();
}

static size_t descriptors(void) {
  DIR *directory = opendir("/proc/self/fd");
  size_t count = 0;
  CHECK(directory);
  while (readdir(directory))
    count++;
  closedir(directory);
  return count;
}

static void a_start_fails_whole(void) {
  size_t before = descriptors();
  int failed = 0;
  for (int n = 0;; n++) {
    struct dataplane *plane = NULL;
    points_left = n;
    points_seen = 0;
    armed = true;
    struct fault fault = dataplane_start(2, ESP_ENGINE_AUTO, &plane);
    armed = false;
    CHECK((fault.sentence != NULL) == (plane == NULL));
    if (plane) {
      dataplane_stop(plane);
      dataplane_free(plane);
    }
    CHECK(descriptors() == before);
    failed += fault.sentence != NULL;
    if (points_seen <= n) break;
  }
  printf("   dataplane_start: %d points, %d failures told\n", points_seen, failed);
  CHECK(failed >= 15);
}

/* A descriptor that was closed under the data plane, or is of the wrong kind. */
static void bad_descriptors_are_refused_whole(void) {
  scene_open();
  int closed = dup(other_udp), good = other_tun[0][1];
  close(closed);
  struct state before = state_now();
  CHECK(socket_add(site.plane, 0, closed).os_error == EBADF);
  CHECK(socket_add(site.plane, 0, good).sentence);        /* a UNIX socket */
  CHECK(socket_add(site.plane, 0, site.udp[0]).sentence); /* twice */
  CHECK(socket_add(site.plane, 99, other_udp).sentence);  /* no such worker */
  CHECK(connection_add(site.plane, OTHER, (int[]){good, closed}, 2, 1400).os_error == EBADF);
  CHECK(connection_add(site.plane, OTHER, (int[]){good, good, good}, 3, 1400).sentence);
  CHECK(connection_add(site.plane, OTHER, &good, 0, 1400).sentence);
  CHECK(connection_add(site.plane, OTHER, &good, 1, 67).sentence);
  CHECK(connection_add(site.plane, 0, &good, 1, 1400).sentence);
  struct sa_request request = other_requests[1];
  request.connection = CONNECTION;
  request.socket = closed;
  CHECK(sa_add(site.plane, &request).os_error == EBADF);
  request.socket = good;
  CHECK(sa_add(site.plane, &request).sentence);
  struct state after = state_now();
  CHECK(memcmp(&before, &after, sizeof before) == 0);
  flows_on();
  scene_close();
}

/* Removed while it sends: nothing is sent from then on, the SA counts what it drops, a new remote is refused. */
static void an_sa_outlives_its_socket(void) {
  uint8_t inner[200];
  struct recipe recipe = {.protocol = P_UDP, .payload = 20};
  scene_open();
  check_fault(socket_remove(site.plane, site.udp[0]));
  check_fault(socket_remove(site.plane, site.udp[0]));
  host_send(&site, NULL, inner, build(inner, &recipe));
  expect_drops(&site, CONNECTION, DROP_SEND_FAILED, 1);
  CHECK(sa_move(site.plane, CONNECTION, SPI_OUT, &peer_in.local, NULL, -1).os_error == EBADF);
  check_fault(sa_remove(site.plane, false, CONNECTION, SPI_OUT));
  check_fault(socket_add(site.plane, 0, site.udp[0]));
  site_out(&site, SPI_OUT, &plane_gcm, &peer_out.local);
  flows_on();
  scene_close();
}

int main(void) {
  RUN(a_start_fails_whole);
  RUN(every_call_fails_whole);
  RUN(bad_descriptors_are_refused_whole);
  RUN(an_sa_outlives_its_socket);
  return 0;
}
