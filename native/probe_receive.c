/* What arrives for the probes: whose it is, whether it is a sign of life, whether it is told (probe.h). */
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#include "probe_tables.h"
#include "udp.h"

#define TOLD_A_SECOND 100 /* packets of one probe */
/* Heartbeats that nobody vouches for: of a peer that starts, replayed, forged. */
#define STRANGERS_A_SECOND 1000
#define NEWS_MAX           8192

#define BEAT_PATH_AT 6 /* gateway/ha/sealed.py */

/* What one datagram told beside its octets. */
struct arrival {
  enum probe_kind kind;
  const uint8_t *data;
  size_t length;
  struct endpoint remote, local;
  uint32_t interface, hops;
};

static const struct {
  size_t key_at, least;
  bool ipv4_header;
} kinds[] = {
#define PROBE_KIND_ROW(name, label, key_at, least, header) [PROBE_##name] = {key_at, least, header},
    FOREACH_PROBE_KIND(PROBE_KIND_ROW)
#undef PROBE_KIND_ROW
};

bool probe_tell(struct probes *probes, const struct probe *probe, bool expired, uint64_t now, const uint8_t *octets,
                size_t length) {
  if (!expired && probes->news_count >= NEWS_MAX) return false;
  struct probe_news *news = malloc(sizeof *news + length);
  if (!news) return false;
  *news = (struct probe_news){NULL, expired, probe->path.id, probe->program.generation, now, length};
  if (length) memcpy(news->octets, octets, length);
  bool first = !probes->news;
  *probes->news_end = news;
  probes->news_end = &news->next;
  probes->news_count++;
  if (first) probe_kick(probes->event_fd);
  return true;
}

uint64_t probe_remote_hash(enum probe_kind kind, const struct endpoint *remote) {
  uint64_t hash = 0xcbf29ce484222325u ^ (uint64_t)kind;
  for (size_t i = 0; i < sizeof remote->address; i++)
    hash = (hash ^ remote->address[i]) * 0x100000001b3u;
  return hash;
}

static bool same_address(const struct endpoint *one, const struct endpoint *other) {
  return one->family == other->family && memcmp(one->address, other->address, sizeof one->address) == 0;
}

static bool between_them(const struct probe_path *path, const struct arrival *arrival) {
  return path->kind == arrival->kind && same_address(&path->remote, &arrival->remote) &&
         (!path->local.family || same_address(&path->local, &arrival->local)) &&
         (!path->interface || path->interface == arrival->interface);
}

uint64_t probe_key(enum probe_kind kind, uint32_t key) {
  return (uint64_t)kind << 32 | key;
}

/* RFC 5880 6.3: by Your Discriminator; by the addresses where it is zero. Deviation: what carries our discriminator but
 * comes from somewhere else is nobody's, for the peer is configured and does not move. */
static struct probe *whose(struct probes *probes, const struct arrival *arrival) {
  const uint8_t *at = arrival->data + kinds[arrival->kind].key_at;
  uint32_t key = (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
  if (key) {
    struct probe *probe = index_at(&probes->by_key, probe_key(arrival->kind, key));
    if (!probe)
      probes->refused[PROBE_REFUSED_UNKNOWN]++;
    else if (!between_them(&probe->path, arrival))
      probes->refused[PROBE_REFUSED_ADDRESS]++;
    else
      return probe;
    return NULL;
  }
  struct probe *probe = index_at(&probes->by_remote, probe_remote_hash(arrival->kind, &arrival->remote));
  while (probe && !between_them(&probe->path, arrival))
    probe = probe->next_of_remote;
  if (!probe) probes->refused[PROBE_REFUSED_UNKNOWN]++;
  return probe;
}

static bool is_alive(const struct probe_program *program, const struct arrival *arrival) {
  if (!program->expected_length || arrival->length < program->expected_length) return false;
  uint8_t differs = 0;
  for (size_t i = 0; i < program->expected_length; i++)
    differs |= (uint8_t)((arrival->data[i] ^ program->expected[i]) & program->alive[i]);
  return !differs;
}

static bool is_expected(const struct probe_program *program, const struct arrival *arrival) {
  return program->expected_length && arrival->length == program->expected_length &&
         memcmp(arrival->data, program->expected, arrival->length) == 0;
}

static bool may_tell(struct probe *probe, uint64_t now, uint32_t most) {
  uint64_t second = now / SECOND_NS;
  if (probe->told_second != second) {
    probe->told_second = second;
    probe->told_in_second = 0;
  }
  return probe->told_in_second++ < most;
}

static void arrived(struct probes *probes, const struct arrival *arrival, uint64_t now) {
  if (arrival->length < kinds[arrival->kind].least) {
    probes->refused[PROBE_REFUSED_SHORT]++;
    return;
  }
  struct probe *probe = whose(probes, arrival);
  if (!probe) return;
  /* RFC 5881 5 */
  if (arrival->hops < probe->path.least_hops) {
    probes->refused[PROBE_REFUSED_HOPS]++;
    return;
  }
  probe->statistics.received++;
  if (is_alive(&probe->program, arrival)) {
    probe->statistics.heard_ns = now;
    probe->doubted = false;
    if (probe->program.detection_ns) probe->detect_at = now + probe->program.detection_ns;
  }
  if (is_expected(&probe->program, arrival)) return;
  if (may_tell(probe, now, TOLD_A_SECOND) && probe_tell(probes, probe, false, now, arrival->data, arrival->length))
    probe->statistics.told++;
  else
    probes->refused[PROBE_REFUSED_SUPPRESSED]++;
}

/* All is told: whether it is a replay and what it says is judged by the core. But what is authentic and new finds room
 * there also while anybody sends whatever he likes and Python is busy. */
static void arrived_beat(struct probes *probes, const uint8_t *data, size_t length) {
  uint64_t now = beat_clock();
  struct probe *probe = length > BEAT_PATH_AT ? index_at(&probes->by_id, data[BEAT_PATH_AT]) : NULL;
  bool vouched = probe && probe->beat && beat_hear(probe->beat, data, length, now);
  if (vouched) {
    probe->statistics.received++;
    probe->statistics.heard_ns = now;
  } else {
    probe = &probes->strangers;
  }
  bool room = vouched || (probes->news_count < NEWS_MAX / 2 && may_tell(probe, now, STRANGERS_A_SECOND));
  if (room && probe_tell(probes, probe, false, now, data, length))
    probe->statistics.told++;
  else
    probes->refused[PROBE_REFUSED_SUPPRESSED]++;
}

static void read_control(struct msghdr *message, struct arrival *arrival) {
  for (struct cmsghdr *control = CMSG_FIRSTHDR(message); control; control = CMSG_NXTHDR(message, control)) {
    const void *data = CMSG_DATA(control);
    if ((control->cmsg_level == IPPROTO_IP && control->cmsg_type == IP_TTL) ||
        (control->cmsg_level == IPPROTO_IPV6 && control->cmsg_type == IPV6_HOPLIMIT)) {
      int hops;
      memcpy(&hops, data, sizeof hops);
      arrival->hops = (uint32_t)hops;
    } else if (control->cmsg_level == IPPROTO_IP && control->cmsg_type == IP_PKTINFO) {
      struct in_pktinfo info;
      memcpy(&info, data, sizeof info);
      arrival->interface = (uint32_t)info.ipi_ifindex;
      arrival->local = (struct endpoint){.family = AF_INET};
      memcpy(arrival->local.address, &info.ipi_addr, sizeof info.ipi_addr);
    } else if (control->cmsg_level == IPPROTO_IPV6 && control->cmsg_type == IPV6_PKTINFO) {
      struct in6_pktinfo info;
      memcpy(&info, data, sizeof info);
      arrival->interface = info.ipi6_ifindex;
      arrival->local = (struct endpoint){.family = AF_INET6};
      memcpy(arrival->local.address, &info.ipi6_addr, sizeof info.ipi6_addr);
    }
  }
}

static void take(struct probes *probes, enum probe_kind kind, int i, uint64_t now) {
  struct slots *slots = &probes->slots;
  if (kind == PROBE_HEARTBEAT) {
    arrived_beat(probes, slots->data[i], slots->messages[i].msg_len);
    return;
  }
  struct arrival arrival = {.kind = kind, .data = slots->data[i], .length = slots->messages[i].msg_len};
  if (!endpoint_from_sockaddr((const struct sockaddr *)&slots->names[i], &arrival.remote)) return;
  read_control(&slots->messages[i].msg_hdr, &arrival);
  if (kinds[kind].ipv4_header) {
    size_t header = arrival.length ? (size_t)(arrival.data[0] & 0xf) * 4 : 0;
    header = header < arrival.length ? header : arrival.length;
    arrival.data += header;
    arrival.length -= header;
  }
  arrived(probes, &arrival, now);
}

static int receive(struct probes *probes, int fd) {
  struct slots *slots = &probes->slots;
  for (int i = 0; i < BATCH; i++) {
    slots->iov[i] = (struct iovec){slots->data[i], SLOT_OCTETS};
    slots->messages[i].msg_hdr = (struct msghdr){.msg_name = &slots->names[i],
                                                 .msg_namelen = sizeof slots->names[i],
                                                 .msg_iov = &slots->iov[i],
                                                 .msg_iovlen = 1,
                                                 .msg_control = slots->control[i],
                                                 .msg_controllen = CONTROL_OCTETS};
  }
  return recvmmsg(fd, slots->messages, BATCH, MSG_DONTWAIT, NULL);
}

void probe_drain(struct probes *probes, const struct listener *listener, unsigned batches) {
  int count;
  do {
    count = receive(probes, listener->fd);
    uint64_t now = probe_clock();
    for (int i = 0; i < count; i++)
      take(probes, listener->kind, i, now);
    /* An ICMP error that waited in the socket is read like a packet, and is none. */
  } while (batches-- > 1 && (count == BATCH || (count < 0 && errno != EAGAIN && errno != EBADF && errno != ENOTSOCK)));
}
