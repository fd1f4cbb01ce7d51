/* gateway._native: the Python face of the data plane (gateway/_native.pyi), and with arguments.c, rows.c and probe_py.c
 * all that knows Python.
 *
 * Arguments become plain C values, the GIL is released, the control call is made, faults become exceptions. Workers
 * never run a line of this file. Limited API of Python 3.11.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <arpa/inet.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "arguments.h"
#include "dataplane.h"
#include "packet.h"
#include "probe_py.h"
#include "rows.h"
#include "udp.h"

#define EVENTS_AT_ONCE 64

typedef struct {
  PyObject_HEAD
  struct dataplane *plane;
} DataPlane;

/* ---- C to Python and back ---- */

static struct dataplane *plane_of(PyObject *self) {
  struct dataplane *plane = ((DataPlane *)self)->plane;
  if (!plane) PyErr_SetString(PyExc_ValueError, "the data plane was not started");
  return plane;
}

static PyObject *endpoint_object(const struct endpoint *endpoint) {
  char host[INET6_ADDRSTRLEN] = "";
  inet_ntop(endpoint->family, endpoint->address, host, sizeof host);
  return Py_BuildValue("(si)", host, (int)endpoint->port);
}

/* ---- names of gateway/esp/dataplane.py ---- */

struct name {
  const char *text;
  int value;
};

static const struct name directions[] = {{"out", false}, {"in", true}, {NULL, 0}};
static const struct name encryptions[] = {{"aes-gcm-16", ESP_AES_GCM_16}, {"aes-gcm-12", ESP_AES_GCM_12},
                                          {"aes-gcm-8", ESP_AES_GCM_8},   {"chacha20-poly1305", ESP_CHACHA20_POLY1305},
                                          {"aes-cbc", ESP_AES_CBC},       {NULL, 0}};
static const struct name integrities[] = {{"none", ESP_INTEG_NONE},
                                          {"hmac-sha1-96", ESP_HMAC_SHA1_96},
                                          {"hmac-sha2-256-128", ESP_HMAC_SHA2_256_128},
                                          {"hmac-sha2-384-192", ESP_HMAC_SHA2_384_192},
                                          {"hmac-sha2-512-256", ESP_HMAC_SHA2_512_256},
                                          {NULL, 0}};
static const struct name engines[] = {
    {"auto", ESP_ENGINE_AUTO}, {"ipsec-mb", ESP_ENGINE_IPSECMB}, {"libcrypto", ESP_ENGINE_LIBCRYPTO}, {NULL, 0}};

static bool named(const struct name *names, const char *what, const char *text, int *value) {
  for (; names->text; names++) {
    if (strcmp(names->text, text) == 0) {
      *value = names->value;
      return true;
    }
  }
  PyErr_Format(PyExc_ValueError, "unknown %s: %s", what, text);
  return false;
}

/* ---- life ---- */

static bool parse_cpus(PyObject *list, struct placement *placement) {
  Py_ssize_t count = list ? PySequence_Size(list) : 0;
  if (count < 0) return false;
  if (count > WORKERS_MAX) {
    raise_fault((struct fault){"too many CPUs", 0});
    return false;
  }
  for (Py_ssize_t i = 0; i < count; i++) {
    PyObject *item = PySequence_GetItem(list, i);
    uint32_t cpu = 0;
    bool good = item && to_u32(item, &cpu);
    Py_XDECREF(item);
    if (!good) return false;
    placement->cpus[i] = cpu;
  }
  placement->cpu_count = (unsigned)count;
  return true;
}

static int dataplane_py_init(PyObject *object, PyObject *args, PyObject *kwargs) {
  static char *keywords[] = {"workers", "engine", "cpus", "busy_poll_us", "count_cycles", NULL};
  DataPlane *self = (DataPlane *)object;
  const char *engine_name = "auto";
  struct placement placement = {0};
  PyObject *cpus = NULL;
  unsigned workers;
  int engine, count_cycles = false;
  if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O&|s$OO&p", keywords, to_u32, &workers, &engine_name, &cpus, to_u32,
                                   &placement.busy_poll_us, &count_cycles))
    return -1;
  if (!named(engines, "engine", engine_name, &engine) || !parse_cpus(cpus, &placement)) return -1;
  placement.count_cycles = count_cycles;
  if (self->plane) {
    PyErr_SetString(PyExc_ValueError, "the data plane was started before");
    return -1;
  }
  struct fault fault;
  Py_BEGIN_ALLOW_THREADS fault = dataplane_start_placed(workers, (enum esp_engine)engine, &placement, &self->plane);
  Py_END_ALLOW_THREADS if (!fault.sentence) return 0;
  raise_fault(fault);
  return -1;
}

static void dataplane_py_dealloc(PyObject *object) {
  DataPlane *self = (DataPlane *)object;
  PyTypeObject *type = Py_TYPE(object);
  if (self->plane) {
    Py_BEGIN_ALLOW_THREADS dataplane_free(self->plane);
    Py_END_ALLOW_THREADS
  }
  freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
  release(object);
  Py_DECREF(type);
}

static PyObject *py_stop(PyObject *self, PyObject *unused) {
  (void)unused;
  struct dataplane *plane = plane_of(self);
  if (!plane) return NULL;
  Py_BEGIN_ALLOW_THREADS dataplane_stop(plane);
  Py_END_ALLOW_THREADS Py_RETURN_NONE;
}

static PyObject *py_halt(PyObject *self, PyObject *unused) {
  (void)unused;
  struct dataplane *plane = plane_of(self);
  if (!plane) return NULL;
  Py_BEGIN_ALLOW_THREADS dataplane_halt(plane);
  Py_END_ALLOW_THREADS Py_RETURN_NONE;
}

static PyObject *py_event_fd(PyObject *self, PyObject *unused) {
  (void)unused;
  struct dataplane *plane = plane_of(self);
  return plane ? PyLong_FromLong(plane->event_fd) : NULL;
}

/* ---- sockets and connections ---- */

/* `call` makes `fault`, without the GIL. */
#define CONTROL(call)                                                                                                  \
  do {                                                                                                                 \
    struct fault fault;                                                                                                \
    Py_BEGIN_ALLOW_THREADS fault = (call);                                                                             \
    Py_END_ALLOW_THREADS return none_or_raise(fault);                                                                  \
  } while (0)

static PyObject *py_share(PyObject *self, PyObject *args) {
  struct dataplane *plane = plane_of(self);
  int fd;
  if (!plane || !PyArg_ParseTuple(args, "i", &fd)) return NULL;
  CONTROL(dataplane_share(plane, fd));
}

static PyObject *py_add_socket(PyObject *self, PyObject *args, PyObject *kwargs) {
  static char *keywords[] = {"worker", "fd", NULL};
  struct dataplane *plane = plane_of(self);
  unsigned worker;
  int fd;
  if (!plane || !PyArg_ParseTupleAndKeywords(args, kwargs, "O&i", keywords, to_u32, &worker, &fd)) return NULL;
  CONTROL(socket_add(plane, worker, fd));
}

static PyObject *py_remove_socket(PyObject *self, PyObject *args, PyObject *kwargs) {
  static char *keywords[] = {"fd", NULL};
  struct dataplane *plane = plane_of(self);
  int fd;
  if (!plane || !PyArg_ParseTupleAndKeywords(args, kwargs, "i", keywords, &fd)) return NULL;
  CONTROL(socket_remove(plane, fd));
}

static PyObject *py_add_packet_socket(PyObject *self, PyObject *args, PyObject *kwargs) {
  static char *keywords[] = {"worker", "fd", NULL};
  struct dataplane *plane = plane_of(self);
  unsigned worker;
  int fd;
  if (!plane || !PyArg_ParseTupleAndKeywords(args, kwargs, "O&i", keywords, to_u32, &worker, &fd)) return NULL;
  CONTROL(packet_socket_add(plane, worker, fd));
}

static PyObject *py_set_egress(PyObject *self, PyObject *args, PyObject *kwargs) {
  static char *keywords[] = {"connection", "local", "remote",     "interface", "link_address",
                             "mtu",        "hops",  "flow_label", NULL};
  struct dataplane *plane = plane_of(self);
  struct egress_request request = {0};
  const char *local, *remote, *link_address;
  Py_ssize_t octets;
  unsigned connection;
  if (!plane || !PyArg_ParseTupleAndKeywords(args, kwargs, "O&ssO&y#O&b|O&", keywords, to_u32, &connection, &local,
                                             &remote, to_u32, &request.interface, &link_address, &octets, to_u32,
                                             &request.mtu, &request.hops, to_u32, &request.flow_label))
    return NULL;
  if (!parse_endpoint(local, 0, &request.local) || !parse_endpoint(remote, 0, &request.remote)) return NULL;
  if (octets != sizeof request.link_address) return raise_fault((struct fault){"a link address has 6 octets", 0});
  memcpy(request.link_address, link_address, sizeof request.link_address);
  CONTROL(egress_set(plane, connection, &request));
}

static PyObject *py_clear_egress(PyObject *self, PyObject *args, PyObject *kwargs) {
  static char *keywords[] = {"connection", NULL};
  struct dataplane *plane = plane_of(self);
  unsigned connection;
  if (!plane || !PyArg_ParseTupleAndKeywords(args, kwargs, "O&", keywords, to_u32, &connection)) return NULL;
  CONTROL(egress_set(plane, connection, NULL));
}

static PyObject *py_add_connection(PyObject *self, PyObject *args, PyObject *kwargs) {
  static char *keywords[] = {"connection", "tun_fds", "mtu", NULL};
  struct dataplane *plane = plane_of(self);
  PyObject *list;
  unsigned connection, mtu;
  int fds[WORKERS_MAX];
  if (!plane || !PyArg_ParseTupleAndKeywords(args, kwargs, "O&OO&", keywords, to_u32, &connection, &list, to_u32, &mtu))
    return NULL;
  Py_ssize_t count = PySequence_Size(list);
  if (count < 0) return NULL;
  if (count > WORKERS_MAX) return raise_fault((struct fault){"too many TUN queues", 0});
  for (Py_ssize_t i = 0; i < count; i++) {
    PyObject *item = PySequence_GetItem(list, i);
    uint32_t fd = 0;
    bool good = item && to_u32(item, &fd) && fd <= INT_MAX;
    if (item && !good && !PyErr_Occurred()) PyErr_Format(PyExc_ValueError, "%R is no file descriptor", item);
    Py_XDECREF(item);
    if (!good) return NULL;
    fds[i] = (int)fd;
  }
  CONTROL(connection_add(plane, connection, fds, (size_t)count, mtu));
}

static PyObject *py_update_connection(PyObject *self, PyObject *args, PyObject *kwargs) {
  static char *keywords[] = {"connection", "mtu", "tcp_mss4", "tcp_mss6", "dscp", "clear_df", NULL};
  struct dataplane *plane = plane_of(self);
  struct passage passage = {.dscp = -1};
  unsigned connection;
  int clear_df = 0;
  if (!plane ||
      !PyArg_ParseTupleAndKeywords(args, kwargs, "O&O&O&O&|ip", keywords, to_u32, &connection, to_u32, &passage.mtu,
                                   to_u16, &passage.mss4, to_u16, &passage.mss6, &passage.dscp, &clear_df))
    return NULL;
  passage.clear_df = clear_df;
  CONTROL(connection_update(plane, connection, &passage));
}

static PyObject *py_reopen_connection(PyObject *self, PyObject *args, PyObject *kwargs) {
  static char *keywords[] = {"connection", NULL};
  struct dataplane *plane = plane_of(self);
  unsigned connection;
  if (!plane || !PyArg_ParseTupleAndKeywords(args, kwargs, "O&", keywords, to_u32, &connection)) return NULL;
  CONTROL(connection_reopen(plane, connection));
}

static PyObject *py_remove_connection(PyObject *self, PyObject *args, PyObject *kwargs) {
  static char *keywords[] = {"connection", NULL};
  struct dataplane *plane = plane_of(self);
  unsigned connection;
  if (!plane || !PyArg_ParseTupleAndKeywords(args, kwargs, "O&", keywords, to_u32, &connection)) return NULL;
  CONTROL(connection_remove(plane, connection));
}

/* ---- SAs and policies ---- */

static bool parse_sa(PyObject *args, PyObject *kwargs, struct sa_request *r, PyObject **selectors) {
  static char *keywords[] = {"direction",
                             "connection",
                             "spi",
                             "encryption",
                             "integrity",
                             "encryption_key",
                             "integrity_key",
                             "esn",
                             "encapsulate",
                             "local",
                             "remote",
                             "selectors",
                             "replay_window",
                             "soft_octets",
                             "hard_octets",
                             "soft_packets",
                             "hard_packets",
                             "socket_fd",
                             "worker",
                             "sequence",
                             "place",
                             "fenced",
                             NULL};
  const char *direction, *encryption, *integrity, *encryption_key, *integrity_key, *local, *remote;
  Py_ssize_t encryption_length, integrity_length;
  unsigned local_port, remote_port;
  int esn, encapsulate, inbound, cipher, hash, fenced;
  long long place;
  if (!PyArg_ParseTupleAndKeywords(args, kwargs, "$sO&O&ssy#y#pp(sO&)(sO&)OO&O&O&O&O&iiO&Lp", keywords, &direction,
                                   to_u32, &r->connection, to_u32, &r->spi, &encryption, &integrity, &encryption_key,
                                   &encryption_length, &integrity_key, &integrity_length, &esn, &encapsulate, &local,
                                   to_u32, &local_port, &remote, to_u32, &remote_port, selectors, to_u32,
                                   &r->replay_window, to_u64, &r->limits.soft_octets, to_u64, &r->limits.hard_octets,
                                   to_u64, &r->limits.soft_packets, to_u64, &r->limits.hard_packets, &r->socket,
                                   &r->worker, to_u64, &r->sequence, &place, &fenced))
    return false;
  if (!named(directions, "direction", direction, &inbound) || !named(encryptions, "encryption", encryption, &cipher) ||
      !named(integrities, "integrity", integrity, &hash))
    return false;
  if (!parse_endpoint(local, local_port, &r->local) || !parse_endpoint(remote, remote_port, &r->remote)) return false;
  r->inbound = inbound;
  r->place = place;
  r->encapsulate = encapsulate;
  r->fenced = fenced;
  r->suite = (struct esp_suite){(enum esp_encryption)cipher, (enum esp_integrity)hash, esn};
  r->encryption_key = (const uint8_t *)encryption_key;
  r->encryption_key_length = (size_t)encryption_length;
  r->integrity_key = (const uint8_t *)integrity_key;
  r->integrity_key_length = (size_t)integrity_length;
  return true;
}

static PyObject *py_add_sa(PyObject *self, PyObject *args, PyObject *kwargs) {
  struct dataplane *plane = plane_of(self);
  struct sa_request request;
  PyObject *list;
  memset(&request, 0, sizeof request);
  request.worker = ANY_WORKER;
  if (!plane || !parse_sa(args, kwargs, &request, &list)) return NULL;
  struct selector *selectors = parse_selectors(list, &request.selector_count);
  if (!selectors) return NULL;
  request.selectors = selectors;
  struct fault fault;
  /* The keys' bytes objects are alive in `kwargs` meanwhile. */
  Py_BEGIN_ALLOW_THREADS fault = sa_add(plane, &request);
  Py_END_ALLOW_THREADS free(selectors);
  return none_or_raise(fault);
}

static PyObject *py_remove_sa(PyObject *self, PyObject *args, PyObject *kwargs) {
  static char *keywords[] = {"direction", "connection", "spi", NULL};
  struct dataplane *plane = plane_of(self);
  const char *direction;
  unsigned connection, spi;
  int inbound;
  if (!plane ||
      !PyArg_ParseTupleAndKeywords(args, kwargs, "sO&O&", keywords, &direction, to_u32, &connection, to_u32, &spi))
    return NULL;
  if (!named(directions, "direction", direction, &inbound)) return NULL;
  struct sa_statistics last;
  struct fault fault;
  Py_BEGIN_ALLOW_THREADS fault = sa_retire(plane, inbound, connection, spi, &last);
  Py_END_ALLOW_THREADS if (fault.sentence || last.spi == 0) return none_or_raise(fault);
  return sa_tuple(&last);
}

static PyObject *py_move_sa(PyObject *self, PyObject *args, PyObject *kwargs) {
  static char *keywords[] = {"connection", "spi", "remote", "local", "socket_fd", NULL};
  struct dataplane *plane = plane_of(self);
  const char *host, *local_host = NULL;
  unsigned connection, spi, port, local_port = 0;
  int fd = -1;
  struct endpoint remote, local;
  if (!plane || !PyArg_ParseTupleAndKeywords(args, kwargs, "O&O&(sO&)|(sO&)i", keywords, to_u32, &connection, to_u32,
                                             &spi, &host, to_u32, &port, &local_host, to_u32, &local_port, &fd))
    return NULL;
  if (!parse_endpoint(host, port, &remote)) return NULL;
  if (local_host && !parse_endpoint(local_host, local_port, &local)) return NULL;
  CONTROL(sa_move(plane, connection, spi, &remote, local_host ? &local : NULL, fd));
}

static PyObject *py_replace_policies(PyObject *self, PyObject *args, PyObject *kwargs) {
  static char *keywords[] = {"connection", "spis", NULL};
  struct dataplane *plane = plane_of(self);
  PyObject *list;
  unsigned connection;
  if (!plane || !PyArg_ParseTupleAndKeywords(args, kwargs, "O&O", keywords, to_u32, &connection, &list)) return NULL;
  Py_ssize_t count = PySequence_Size(list);
  if (count < 0) return NULL;
  uint32_t *spis = calloc((size_t)count + 1, sizeof *spis);
  if (!spis) return PyErr_NoMemory();
  for (Py_ssize_t i = 0; i < count && !PyErr_Occurred(); i++) {
    PyObject *item = PySequence_GetItem(list, i);
    if (item) to_u32(item, &spis[i]);
    Py_XDECREF(item);
  }
  struct fault fault = NO_FAULT;
  if (!PyErr_Occurred()) {
    Py_BEGIN_ALLOW_THREADS fault = policies_replace(plane, connection, spis, (size_t)count);
    Py_END_ALLOW_THREADS
  }
  free(spis);
  return PyErr_Occurred() ? NULL : none_or_raise(fault);
}

static PyObject *py_move_fence(PyObject *self, PyObject *args, PyObject *kwargs) {
  static char *keywords[] = {"until_ns", NULL};
  struct dataplane *plane = plane_of(self);
  uint64_t until;
  if (!plane || !PyArg_ParseTupleAndKeywords(args, kwargs, "O&", keywords, to_u64, &until)) return NULL;
  Py_BEGIN_ALLOW_THREADS fence_move(plane, until);
  Py_END_ALLOW_THREADS Py_RETURN_NONE;
}

static PyObject *py_grant(PyObject *self, PyObject *args, PyObject *kwargs) {
  static char *keywords[] = {"connection", "spi", "limit", NULL};
  struct dataplane *plane = plane_of(self);
  unsigned connection, spi;
  uint64_t limit;
  if (!plane ||
      !PyArg_ParseTupleAndKeywords(args, kwargs, "O&O&O&", keywords, to_u32, &connection, to_u32, &spi, to_u64, &limit))
    return NULL;
  CONTROL(sa_grant(plane, connection, spi, limit));
}

static PyObject *py_advance(PyObject *self, PyObject *args, PyObject *kwargs) {
  static char *keywords[] = {"connection", "spi", "by", NULL};
  struct dataplane *plane = plane_of(self);
  unsigned connection, spi;
  uint64_t by;
  if (!plane ||
      !PyArg_ParseTupleAndKeywords(args, kwargs, "O&O&O&", keywords, to_u32, &connection, to_u32, &spi, to_u64, &by))
    return NULL;
  CONTROL(sa_advance(plane, connection, spi, by));
}

/* ---- events and counters ---- */

static PyObject *py_events(PyObject *self, PyObject *unused) {
  (void)unused;
  struct dataplane *plane = plane_of(self);
  PyObject *list = plane ? PyList_New(0) : NULL;
  struct event events[EVENTS_AT_ONCE];
  bool complete = list != NULL;
  size_t count = EVENTS_AT_ONCE;
  while (complete && count == EVENTS_AT_ONCE) {
    count = events_drain(plane, events, EVENTS_AT_ONCE);
    for (size_t i = 0; i < count && complete; i++)
      complete = append(list, Py_BuildValue("(sIIy#)", event_name(events[i].kind), events[i].connection, events[i].spi,
                                            (const char *)events[i].detail, (Py_ssize_t)events[i].length));
  }
  return list_or_null(list, complete);
}

static PyObject *py_punted(PyObject *self, PyObject *unused) {
  (void)unused;
  struct dataplane *plane = plane_of(self);
  PyObject *list = plane ? PyList_New(0) : NULL;
  bool complete = list != NULL;
  struct punt *next;
  for (struct punt *punt = complete ? punts_drain(plane) : NULL; punt; punt = next) {
    next = punt->next;
    if (complete)
      complete =
          append(list, Py_BuildValue("(y#NNi)", (const char *)punt->data, (Py_ssize_t)punt->length,
                                     endpoint_object(&punt->local), endpoint_object(&punt->remote), punt->socket));
    free(punt);
  }
  return list_or_null(list, complete);
}

static PyObject *sa_rows(PyObject *self, struct fault (*read)(struct dataplane *, struct sa_statistics **, size_t *),
                         PyObject *(*row)(const struct sa_statistics *)) {
  struct dataplane *plane = plane_of(self);
  struct sa_statistics *rows = NULL;
  size_t count = 0;
  struct fault fault;
  if (!plane) return NULL;
  Py_BEGIN_ALLOW_THREADS fault = read(plane, &rows, &count);
  Py_END_ALLOW_THREADS if (fault.sentence) return raise_fault(fault);
  PyObject *list = sa_list(rows, count, row);
  free(rows);
  return list;
}

static PyObject *py_sa_statistics(PyObject *self, PyObject *unused) {
  (void)unused;
  return sa_rows(self, sa_statistics, sa_row);
}

static PyObject *py_sa_changes(PyObject *self, PyObject *unused) {
  (void)unused;
  return sa_rows(self, sa_changes, sa_tuple);
}

static PyObject *py_drops(PyObject *self, PyObject *unused) {
  (void)unused;
  struct dataplane *plane = plane_of(self);
  struct drop_row *rows = NULL;
  size_t count = 0;
  struct fault fault;
  if (!plane) return NULL;
  Py_BEGIN_ALLOW_THREADS fault = dataplane_drops(plane, &rows, &count);
  Py_END_ALLOW_THREADS if (fault.sentence) return raise_fault(fault);
  PyObject *list = drop_list(rows, count);
  free(rows);
  return list;
}

static PyObject *py_worker_statistics(PyObject *self, PyObject *unused) {
  (void)unused;
  struct dataplane *plane = plane_of(self);
  struct worker_statistics rows[WORKERS_MAX];
  struct fault fault;
  if (!plane) return NULL;
  Py_BEGIN_ALLOW_THREADS fault = dataplane_worker_statistics(plane, rows);
  Py_END_ALLOW_THREADS if (fault.sentence) return raise_fault(fault);
  PyObject *list = PyList_New(0);
  bool complete = list != NULL;
  for (unsigned i = 0; i < plane->worker_count && complete; i++)
    complete = append(list, worker_row(&rows[i]));
  return list_or_null(list, complete);
}

/* ---- the module ---- */

#define METHOD(name)          {#name, py_##name, METH_NOARGS, NULL}
#define METHOD_KEYWORDS(name) {#name, (PyCFunction)(void (*)(void))py_##name, METH_VARARGS | METH_KEYWORDS, NULL}

static PyMethodDef dataplane_methods[] = {METHOD(event_fd),
                                          METHOD_KEYWORDS(add_socket),
                                          METHOD_KEYWORDS(remove_socket),
                                          METHOD_KEYWORDS(add_packet_socket),
                                          METHOD_KEYWORDS(set_egress),
                                          METHOD_KEYWORDS(clear_egress),
                                          METHOD_KEYWORDS(add_connection),
                                          METHOD_KEYWORDS(update_connection),
                                          METHOD_KEYWORDS(reopen_connection),
                                          METHOD_KEYWORDS(remove_connection),
                                          METHOD_KEYWORDS(add_sa),
                                          METHOD_KEYWORDS(remove_sa),
                                          METHOD_KEYWORDS(move_sa),
                                          METHOD_KEYWORDS(replace_policies),
                                          METHOD_KEYWORDS(grant),
                                          METHOD_KEYWORDS(move_fence),
                                          METHOD_KEYWORDS(advance),
                                          METHOD(events),
                                          METHOD(punted),
                                          METHOD(sa_statistics),
                                          METHOD(sa_changes),
                                          METHOD(drops),
                                          METHOD(worker_statistics),
                                          {"share", py_share, METH_VARARGS, NULL},
                                          METHOD(halt),
                                          METHOD(stop),
                                          {NULL, NULL, 0, NULL}};

static PyType_Slot dataplane_slots[] = {{Py_tp_init, (void *)dataplane_py_init},
                                        {Py_tp_dealloc, (void *)dataplane_py_dealloc},
                                        {Py_tp_methods, dataplane_methods},
                                        {0, NULL}};

static PyType_Spec dataplane_spec = {
    .name = "gateway._native.DataPlane",
    .basicsize = sizeof(DataPlane),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = dataplane_slots,
};

static int add_value(PyObject *module, const char *name, PyObject *value) {
  int result = value ? PyModule_AddObjectRef(module, name, value) : -1;
  Py_XDECREF(value);
  return result;
}

static PyMethodDef module_methods[] = {{NULL, NULL, 0, NULL}};

static int module_exec(PyObject *module) {
  const char *engine = esp_engine_name(esp_engine_resolve(ESP_ENGINE_AUTO));
  if (add_value(module, "DataPlane", PyType_FromModuleAndSpec(module, &dataplane_spec, NULL)) < 0) return -1;
  if (add_value(module, "Probes", probes_type(module)) < 0) return -1;
  if (add_value(module, "PROBE_REFUSALS", probe_refusal_names()) < 0) return -1;
  if (add_value(module, "ENGINE", PyUnicode_FromString(engine)) < 0) return -1;
  if (add_value(module, "STAGES", stage_names()) < 0) return -1;
  return add_value(module, "DROP_REASONS", drop_names());
}

static PyModuleDef_Slot module_slots[] = {{Py_mod_exec, (void *)module_exec}, {0, NULL}};

static PyModuleDef module_definition = {PyModuleDef_HEAD_INIT, .m_name = "_native", .m_methods = module_methods,
                                        .m_slots = module_slots};

PyMODINIT_FUNC PyInit__native(void); /* Python.h declares none */

PyMODINIT_FUNC PyInit__native(void) {
  return PyModuleDef_Init(&module_definition);
}
