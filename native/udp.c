/* Outer sockets: what a socket is, sending runs with UDP_SEGMENT, receiving with UDP_GRO.
 *
 * The control plane owns the fds and sends IKE on them too; all reads here are MSG_DONTWAIT.
 */
#include "udp.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "inner.h"
#include "packet.h"

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif

#define SOCKET_BUFFER_OCTETS (8 << 20)
#define SEND_BATCH           32
#define SEND_CONTROL_OCTETS  (CMSG_SPACE(32) + CMSG_SPACE(sizeof(int)) + CMSG_SPACE(sizeof(uint16_t)))
#define SEND_WAIT_MS         5
#define SEND_WAITS_MS        15 /* of all waits of one udp_send_runs */
#define SEND_TRIES           3
#define NS_PER_MS            UINT64_C(1000000)

/* ---- end points ---- */

static bool ipv4_is_mapped(const struct in6_addr *address) {
  return IN6_IS_ADDR_V4MAPPED(address);
}

static void endpoint_from_in6(struct endpoint *out, const struct in6_addr *address) {
  if (ipv4_is_mapped(address)) {
    out->family = AF_INET;
    memcpy(out->address, address->s6_addr + 12, 4);
  } else {
    out->family = AF_INET6;
    memcpy(out->address, address->s6_addr, 16);
  }
}

bool endpoint_from_sockaddr(const struct sockaddr *name, struct endpoint *out) {
  memset(out, 0, sizeof *out);
  if (name->sa_family == AF_INET) {
    const struct sockaddr_in *in = (const struct sockaddr_in *)name;
    out->family = AF_INET;
    out->port = ntohs(in->sin_port);
    memcpy(out->address, &in->sin_addr, 4);
    return true;
  }
  if (name->sa_family != AF_INET6) return false;
  const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)name;
  endpoint_from_in6(out, &in6->sin6_addr);
  out->port = ntohs(in6->sin6_port);
  if (out->family == AF_INET6) out->scope = in6->sin6_scope_id;
  return true;
}

bool endpoint_equal(const struct endpoint *a, const struct endpoint *b) {
  return memcmp(a, b, sizeof *a) == 0;
}

static bool endpoint_is_wildcard(const struct endpoint *endpoint) {
  static const uint8_t zero[16];
  return memcmp(endpoint->address, zero, sizeof zero) == 0;
}

static void endpoint_to_in6(const struct endpoint *endpoint, struct in6_addr *out) {
  if (endpoint->family == AF_INET) {
    memset(out, 0, sizeof *out);
    memset(out->s6_addr + 10, 0xff, 2);
    memcpy(out->s6_addr + 12, endpoint->address, 4);
  } else {
    memcpy(out, endpoint->address, sizeof *out);
  }
}

/* ---- sockets ---- */

static bool socket_option(int fd, int level, int option, int *value) {
  socklen_t length = sizeof *value;
  return getsockopt(fd, level, option, value, &length) == 0;
}

static void socket_set(int fd, int level, int option, int value) {
  /* Best effort: an older kernel lacks the option and the data plane is slower, not wrong. */
  if (setsockopt(fd, level, option, &value, sizeof value) < 0) return;
}

static struct fault socket_name(int fd, struct endpoint *local, int *family) {
  struct sockaddr_storage name;
  socklen_t length = sizeof name;
  if (getsockname(fd, (struct sockaddr *)&name, &length) < 0) return (struct fault){"not a socket", errno};
  *family = name.ss_family;
  if (!endpoint_from_sockaddr((struct sockaddr *)&name, local)) return (struct fault){"not an IP socket", 0};
  return NO_FAULT;
}

static struct fault socket_describe(int fd, struct source *source) {
  int type = 0, family = 0;
  struct fault fault = socket_name(fd, &source->local, &family);
  if (fault.sentence) return fault;
  if (!socket_option(fd, SOL_SOCKET, SO_TYPE, &type)) return (struct fault){"not a socket", errno};
  if (type != SOCK_DGRAM && type != SOCK_RAW) return (struct fault){"neither a UDP nor a raw socket", 0};
  source->kind = type == SOCK_RAW ? SOURCE_RAW : SOURCE_UDP;
  source->fd = fd;
  source->wildcard = endpoint_is_wildcard(&source->local);
  if (source->kind == SOURCE_RAW) source->local.port = 0; /* getsockname says the protocol there */
  if (source->kind == SOURCE_UDP) socket_set(fd, IPPROTO_UDP, UDP_GRO, 1);
  if (source->wildcard) {
    if (family == AF_INET6) socket_set(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1);
    socket_set(fd, IPPROTO_IP, IP_PKTINFO, 1);
  }
  /* RFC 6040 4.2 wants the outer ECN field. */
  socket_set(fd, IPPROTO_IP, IP_RECVTOS, 1);
  if (family == AF_INET6) socket_set(fd, IPPROTO_IPV6, IPV6_RECVTCLASS, 1);
  /* RFC 3948 2.2: a receiver must accept zero UDP checksums, over IPv6 too. */
  if (source->kind == SOURCE_UDP && family == AF_INET6) socket_set(fd, IPPROTO_UDP, UDP_NO_CHECK6_RX, 1);
  socket_set(fd, SOL_SOCKET, SO_RCVBUFFORCE, SOCKET_BUFFER_OCTETS);
  socket_set(fd, SOL_SOCKET, SO_SNDBUFFORCE, SOCKET_BUFFER_OCTETS);
  return NO_FAULT;
}

/* Which of the sockets bound to one port gets a datagram: the one of the worker numbered by its SPI modulo their
 * number, so that one SA's packets stay with one worker and several SAs spread; IKE, behind its marker of zero, goes to
 * the first, and so does what is too short for a SPI. The sockets were bound in the order of their workers. */
static void steer(int fd, unsigned workers) {
  struct sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
      BPF_STMT(BPF_ALU | BPF_MOD | BPF_K, workers),
      BPF_STMT(BPF_RET | BPF_A, 0),
  };
  struct sock_fprog program = {sizeof code / sizeof code[0], code};
  /* Refused where the port is not shared: then there is nothing to steer. */
  if (setsockopt(fd, SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, &program, sizeof program) < 0) return;
}

struct fault socket_add(struct dataplane *plane, unsigned worker, int fd) {
  struct fault fault = control_enter(plane);
  if (fault.sentence) return fault;
  struct source *source = calloc(1, sizeof *source);
  if (worker >= plane->worker_count)
    fault.sentence = "no such worker";
  else if (!source)
    fault.sentence = "out of memory";
  for (const struct source *other = plane->sockets; other; other = other->next)
    if (other->fd == fd) fault.sentence = "the socket was added before";
  if (!fault.sentence) fault = socket_describe(fd, source);
  if (!fault.sentence && source->kind == SOURCE_UDP) steer(fd, plane->worker_count);
  if (!fault.sentence) fault = worker_poll(&plane->workers[worker], source);
  if (fault.sentence) {
    free(source);
  } else {
    source->next = plane->sockets;
    plane->sockets = source;
  }
  control_leave(plane);
  return fault;
}

struct fault socket_remove(struct dataplane *plane, int fd) {
  struct fault fault = control_enter(plane);
  if (fault.sentence) return fault;
  struct source **link = &plane->sockets;
  while (*link && (*link)->fd != fd)
    link = &(*link)->next;
  struct source *source = *link;
  if (source) {
    *link = source->next;
    worker_unpoll(source);
    source->worker->socket_drops_before += socket_backlog(fd).drops;
  }
  for (struct sa *sa = plane->sas; sa; sa = sa->next)
    if (!sa->inbound && atomic_load(&sa->socket) == fd) atomic_store(&sa->socket, -1);
  workers_quiesce_sources(plane);
  free(source);
  control_leave(plane);
  return fault;
}

struct socket_backlog socket_backlog(int fd) {
  uint32_t memory[SK_MEMINFO_VARS] = {0};
  socklen_t length = sizeof memory;
  /* Zero where the kernel does not tell. */
  if (getsockopt(fd, SOL_SOCKET, SO_MEMINFO, memory, &length) < 0) return (struct socket_backlog){0, 0};
  return (struct socket_backlog){memory[SK_MEMINFO_RMEM_ALLOC], memory[SK_MEMINFO_DROPS]};
}

/* ---- where an SA sends ---- */

struct address endpoint_address(const struct endpoint *endpoint) {
  const uint8_t *p = endpoint->address;
  if (endpoint->family == AF_INET) return (struct address){0, load32(p)};
  return (struct address){(uint64_t)load32(p) << 32 | load32(p + 4), (uint64_t)load32(p + 8) << 32 | load32(p + 12)};
}

static void outer_name4(struct outer *outer, const struct endpoint *remote, uint16_t port) {
  struct sockaddr_in *in = (struct sockaddr_in *)&outer->name;
  in->sin_family = AF_INET;
  in->sin_port = htons(port);
  memcpy(&in->sin_addr, remote->address, 4);
  outer->name_length = sizeof *in;
}

static void outer_name6(struct outer *outer, const struct endpoint *remote, uint16_t port) {
  struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)&outer->name;
  in6->sin6_family = AF_INET6;
  in6->sin6_port = htons(port);
  in6->sin6_scope_id = remote->scope;
  endpoint_to_in6(remote, &in6->sin6_addr);
  outer->name_length = sizeof *in6;
}

static void outer_source(struct outer *outer, const struct endpoint *local, int family) {
  struct cmsghdr *control = (struct cmsghdr *)outer->pktinfo;
  if (family == AF_INET) {
    struct in_pktinfo info = {0};
    memcpy(&info.ipi_spec_dst, local->address, 4);
    control->cmsg_level = IPPROTO_IP;
    control->cmsg_type = IP_PKTINFO;
    control->cmsg_len = CMSG_LEN(sizeof info);
    memcpy(CMSG_DATA(control), &info, sizeof info);
    outer->pktinfo_length = CMSG_SPACE(sizeof info);
  } else {
    struct in6_pktinfo info = {0};
    endpoint_to_in6(local, &info.ipi6_addr);
    info.ipi6_ifindex = local->scope;
    control->cmsg_level = IPPROTO_IPV6;
    control->cmsg_type = IPV6_PKTINFO;
    control->cmsg_len = CMSG_LEN(sizeof info);
    memcpy(CMSG_DATA(control), &info, sizeof info);
    outer->pktinfo_length = CMSG_SPACE(sizeof info);
  }
}

/* ip(7): the default, and what an administrator or the owner of the socket made of it. */
static bool sets_df(int fd) {
  int discover = IP_PMTUDISC_DONT;
  socket_option(fd, IPPROTO_IP, IP_MTU_DISCOVER, &discover);
  return discover == IP_PMTUDISC_WANT || discover == IP_PMTUDISC_DO || discover == IP_PMTUDISC_PROBE;
}

struct fault outer_new(int fd, bool encapsulate, const struct endpoint *local, const struct endpoint *remote,
                       struct outer **out) {
  struct endpoint bound;
  int family = 0, type = 0;
  struct fault fault = socket_name(fd, &bound, &family);
  if (fault.sentence) return fault;
  if (!socket_option(fd, SOL_SOCKET, SO_TYPE, &type) || type != (encapsulate ? SOCK_DGRAM : SOCK_RAW))
    return (struct fault){encapsulate ? "encapsulation needs a UDP socket" : "protocol 50 needs a raw socket", 0};
  if (family == AF_INET && remote->family != AF_INET)
    return (struct fault){"the socket is IPv4 and the peer is not", 0};
  if (local->family != remote->family) return (struct fault){"local and remote are of different families", 0};
  if (encapsulate && remote->port == 0) return (struct fault){"the peer's port is missing", 0};
  struct outer *outer = calloc(1, sizeof *outer);
  if (!outer) return (struct fault){"out of memory", 0};
  outer->raw = !encapsulate;
  outer->ipv6 = remote->family == AF_INET6;
  outer->any_local = endpoint_is_wildcard(local);
  outer->dont_fragment = sets_df(fd);
  outer->local = endpoint_address(local);
  outer->remote = endpoint_address(remote);
  uint16_t port = outer->port = encapsulate ? remote->port : 0;
  if (family == AF_INET)
    outer_name4(outer, remote, port);
  else
    outer_name6(outer, remote, port);
  if (endpoint_is_wildcard(&bound) && !endpoint_is_wildcard(local)) outer_source(outer, local, family);
  *out = outer;
  return NO_FAULT;
}

/* ---- sending ---- */

static void message_control(struct msghdr *message, uint8_t *control, int level, int type, const void *value,
                            size_t length) {
  struct cmsghdr *header = (struct cmsghdr *)(control + message->msg_controllen);
  header->cmsg_level = level;
  header->cmsg_type = type;
  header->cmsg_len = CMSG_LEN(length);
  memcpy(CMSG_DATA(header), value, length);
  message->msg_control = control;
  message->msg_controllen += CMSG_SPACE(length);
}

/* Where to, from where and with what TOS. A TOS of zero stays the socket's own affair. */
static void message_address(struct msghdr *message, const struct outer *outer, uint8_t *control, uint8_t tos) {
  memset(message, 0, sizeof *message);
  message->msg_name = (void *)(uintptr_t)&outer->name;
  message->msg_namelen = outer->name_length;
  if (outer->pktinfo_length) {
    memcpy(control, outer->pktinfo, outer->pktinfo_length);
    message->msg_control = control;
    message->msg_controllen = outer->pktinfo_length;
  }
  int value = tos;
  if (tos)
    message_control(message, control, outer->ipv6 ? IPPROTO_IPV6 : IPPROTO_IP, outer->ipv6 ? IPV6_TCLASS : IP_TOS,
                    &value, sizeof value);
}

static void message_segments(struct msghdr *message, uint8_t *control, uint32_t segment_size) {
  uint16_t size = (uint16_t)segment_size;
  message_control(message, control, IPPROTO_UDP, UDP_SEGMENT, &size, sizeof size);
}

/* One udp_send_runs: whose, where to, and how it stands with waiting. */
struct sending {
  struct worker *worker;
  const struct sa *sa;
  const struct outer *outer;
  int fd;
  uint64_t wait_until_ns; /* CLOCK_BOOTTIME, from the first wait on; 0: there was none */
  bool late;              /* the fence came while it waited: nothing more is sent */
};

/* True when it makes sense to try the same datagram again. Other tunnels wait too: all waits of one call are short. */
static bool wait_writable(struct sending *sending, int error) {
  if (error != EAGAIN && error != ENOBUFS) return false;
  uint64_t now = boottime_ns();
  if (sending->wait_until_ns == 0) sending->wait_until_ns = now + SEND_WAITS_MS * NS_PER_MS;
  if (now >= sending->wait_until_ns) return false;
  uint64_t left_ms = (sending->wait_until_ns - now + NS_PER_MS - 1) / NS_PER_MS;
  struct pollfd writable = {.fd = sending->fd, .events = POLLOUT};
  poll(&writable, 1, left_ms < SEND_WAIT_MS ? (int)left_ms : SEND_WAIT_MS);
  sending->late = !sa_may_send(sending->worker->plane, sending->sa);
  return !sending->late;
}

/* Sends datagrams of at most `segment_size` octets one by one. Returns how many were refused; what is late is counted
 * here. */
static uint32_t send_singly(struct sending *sending, const struct run *run) {
  uint32_t refused = 0, left = run->count;
  for (size_t offset = 0; offset < run->length; offset += run->segment_size) {
    alignas(struct cmsghdr) uint8_t control[SEND_CONTROL_OCTETS];
    size_t octets = run->length - offset;
    struct iovec iov = {run->data + offset, octets < run->segment_size ? octets : run->segment_size};
    struct msghdr message;
    message_address(&message, sending->outer, control, run->tos);
    message.msg_iov = &iov;
    message.msg_iovlen = 1;
    ssize_t sent = -1;
    for (int tries = 1; sent < 0; tries++) {
      sent = sendmsg(sending->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
      counter_add(&sending->worker->counters.udp_sends, 1);
      if (sent < 0 && (tries == SEND_TRIES || (errno != EINTR && !wait_writable(sending, errno)))) break;
    }
    if (sending->late) break;
    refused += sent < 0;
    left--;
  }
  if (left) drop_count(sending->worker, sending->sa->connection, DROP_NOT_ACTIVE, left);
  return refused;
}

/* Whether the kernel takes the run's first GSO_SEGMENTS_SURE datagrams, and so refused it for their number only; they
 * are sent then, and `run` is what is left. */
static bool send_fewer(const struct sending *sending, struct run *run) {
  alignas(struct cmsghdr) uint8_t control[SEND_CONTROL_OCTETS];
  size_t length = (size_t)GSO_SEGMENTS_SURE * run->segment_size;
  struct iovec iov = {run->data, length};
  struct msghdr message;
  message_address(&message, sending->outer, control, run->tos);
  message_segments(&message, control, run->segment_size);
  message.msg_iov = &iov;
  message.msg_iovlen = 1;
  counter_add(&sending->worker->counters.udp_sends, 1);
  if (sendmsg(sending->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL) < 0) return false;
  atomic_store(&sending->worker->plane->gso_segments, GSO_SEGMENTS_SURE);
  run->data += length;
  run->length -= length;
  run->count -= GSO_SEGMENTS_SURE;
  return true;
}

/* The kernel refused a run whole: an older one that takes fewer segments (EINVAL), a device without checksum offload
 * (EIO), or segments beyond the path MTU (EMSGSIZE, EINVAL). Each datagram then gets its own chance. */
static void run_refused(struct sending *sending, const struct run *whole, int error) {
  struct run run = *whole;
  uint32_t refused = run.count;
  if (run.count > 1 && (error == EINVAL || error == EMSGSIZE || error == EIO)) {
    if (error == EINVAL && run.count > GSO_SEGMENTS_SURE) send_fewer(sending, &run);
    refused = send_singly(sending, &run);
  }
  if (refused) drop_count(sending->worker, sending->sa->connection, DROP_SEND_FAILED, refused);
}

struct send_batch {
  struct mmsghdr messages[SEND_BATCH];
  struct iovec iov[SEND_BATCH];
  alignas(struct cmsghdr) uint8_t control[SEND_BATCH][SEND_CONTROL_OCTETS];
};

/* Returns how many runs it is done with: all, but where the rest is late. */
static size_t send_batch(struct sending *sending, const struct run *runs, size_t count) {
  struct send_batch batch;
  for (size_t i = 0; i < count; i++) {
    struct msghdr *message = &batch.messages[i].msg_hdr;
    batch.iov[i] = (struct iovec){runs[i].data, runs[i].length};
    message_address(message, sending->outer, batch.control[i], runs[i].tos);
    if (runs[i].count > 1) message_segments(message, batch.control[i], runs[i].segment_size);
    message->msg_iov = &batch.iov[i];
    message->msg_iovlen = 1;
  }
  size_t done = 0;
  int tries = 0;
  while (done < count && !sending->late) {
    unsigned left = (unsigned)(count - done);
    int sent = sendmmsg(sending->fd, batch.messages + done, left, MSG_DONTWAIT | MSG_NOSIGNAL), error = errno;
    counter_add(&sending->worker->counters.udp_sends, 1);
    if (sent > 0) {
      done += (size_t)sent;
      tries = 0;
    } else if (error != EINTR && (++tries >= SEND_TRIES || !wait_writable(sending, error)) && !sending->late) {
      /* Only success earns a new try: behind a socket that stays full the rest of the batch gets one each. */
      run_refused(sending, &runs[done++], error);
    }
  }
  return done;
}

void udp_send_runs(struct worker *worker, const struct sa *sa, const struct run *runs, size_t count) {
  const struct outer *outer = atomic_load_explicit(&sa->outer, memory_order_acquire);
  struct sending sending = {.worker = worker, .sa = sa, .outer = outer, .fd = atomic_load(&sa->socket)};
  size_t done = outer->raw ? packet_send_runs(worker, sa, outer, runs, count) : 0;
  while (done < count && !sending.late)
    done += send_batch(&sending, runs + done, count - done < SEND_BATCH ? count - done : SEND_BATCH);
  uint64_t late = 0;
  for (; done < count; done++)
    late += runs[done].count;
  if (late) drop_count(worker, sa->connection, DROP_NOT_ACTIVE, late);
}

/* ---- receiving ---- */

void receive_slots_init(struct receive_slots *slots, uint8_t *data) {
  slots->data = data;
  for (int i = 0; i < RECEIVE_SLOTS; i++) {
    slots->iov[i] = (struct iovec){data + (size_t)i * RECEIVE_SLOT_OCTETS, RECEIVE_SLOT_OCTETS};
    slots->messages[i].msg_hdr = (struct msghdr){
        .msg_name = &slots->names[i], .msg_iov = &slots->iov[i], .msg_iovlen = 1, .msg_control = slots->control[i]};
  }
}

int udp_receive(struct worker *worker, struct source *source, struct receive_slots *slots) {
  for (int i = 0; i < RECEIVE_SLOTS; i++) {
    slots->messages[i].msg_hdr.msg_namelen = sizeof slots->names[i];
    slots->messages[i].msg_hdr.msg_controllen = sizeof slots->control[i];
  }
  int count = recvmmsg(source->fd, slots->messages, RECEIVE_SLOTS, MSG_DONTWAIT, NULL);
  counter_add(&worker->counters.udp_reads, 1);
  return count > 0 ? count : 0;
}

/* The kernel writes one octet for IPv4 and an int for IPv6. */
static uint8_t ecn_of(const struct cmsghdr *control) {
  int word;
  if (control->cmsg_len < CMSG_LEN(sizeof word)) return *CMSG_DATA(control) & ECN_MASK;
  memcpy(&word, CMSG_DATA(control), sizeof word);
  return (uint8_t)(word & ECN_MASK);
}

static void read_control(struct msghdr *message, struct received *out) {
  for (struct cmsghdr *control = CMSG_FIRSTHDR(message); control; control = CMSG_NXTHDR(message, control)) {
    if (control->cmsg_level == IPPROTO_UDP && control->cmsg_type == UDP_GRO) {
      int size;
      memcpy(&size, CMSG_DATA(control), sizeof size);
      if (size > 0) out->segment_size = (size_t)size;
    } else if ((control->cmsg_level == IPPROTO_IP && control->cmsg_type == IP_TOS) ||
               (control->cmsg_level == IPPROTO_IPV6 && control->cmsg_type == IPV6_TCLASS)) {
      out->ecn = ecn_of(control);
    } else if (control->cmsg_level == IPPROTO_IP && control->cmsg_type == IP_PKTINFO) {
      struct in_pktinfo info;
      memcpy(&info, CMSG_DATA(control), sizeof info);
      memset(out->local.address, 0, sizeof out->local.address);
      memcpy(out->local.address, &info.ipi_addr, 4);
      out->local.family = AF_INET;
    } else if (control->cmsg_level == IPPROTO_IPV6 && control->cmsg_type == IPV6_PKTINFO) {
      struct in6_pktinfo info;
      memcpy(&info, CMSG_DATA(control), sizeof info);
      memset(out->local.address, 0, sizeof out->local.address);
      endpoint_from_in6(&out->local, &info.ipi6_addr);
    }
  }
}

bool udp_received(const struct receive_slots *slots, const struct source *source, int i, struct received *out) {
  struct msghdr message = slots->messages[i].msg_hdr;
  out->data = slots->iov[i].iov_base;
  out->length = out->segment_size = slots->messages[i].msg_len;
  out->ecn = 0;
  out->local = source->local;
  if (message.msg_flags & MSG_TRUNC || !endpoint_from_sockaddr(message.msg_name, &out->remote)) return false;
  read_control(&message, out);
  if (source->kind != SOURCE_RAW) return true;
  out->remote.port = 0;
  if (out->remote.family != AF_INET || slots->names[i].ss_family != AF_INET) return true;
  /* A raw IPv4 socket hands over the IP header too (raw(7)). */
  size_t header = out->length ? (size_t)(out->data[0] & 0x0f) * 4 : 0;
  if (header < 20 || header > out->length) return false;
  out->data += header;
  out->length -= header;
  out->segment_size = out->length;
  return true;
}

void udp_drain_errors(struct source *source) {
  uint8_t data[64], control[512];
  int value;
  socket_option(source->fd, SOL_SOCKET, SO_ERROR, &value);
  for (;;) {
    struct iovec iov = {data, sizeof data};
    struct msghdr message = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    if (recvmsg(source->fd, &message, MSG_ERRQUEUE | MSG_DONTWAIT) < 0) return;
  }
}
