/* gateway._native.Probes: the Python face of the probe thread (probe.h), as module.c is that of the data plane. */
#include "probe_py.h"

#include <stdlib.h>
#include <string.h>

#include "arguments.h"
#include "probe.h"
#include "rows.h"

typedef struct {
  PyObject_HEAD
  struct probes *probes;
} Probes;

static const char *const kind_labels[] = {
#define KIND_LABEL(name, label, key_at, least, header) label,
    FOREACH_PROBE_KIND(KIND_LABEL)
#undef KIND_LABEL
};

static const char *const refusal_labels[] = {
#define REFUSAL_LABEL(name, label) label,
    FOREACH_PROBE_REFUSAL(REFUSAL_LABEL)
#undef REFUSAL_LABEL
};

/* `call` makes `fault`, without the GIL. */
#define CONTROL(call)                                                                                                  \
  do {                                                                                                                 \
    struct fault fault;                                                                                                \
    Py_BEGIN_ALLOW_THREADS fault = (call);                                                                             \
    Py_END_ALLOW_THREADS return none_or_raise(fault);                                                                  \
  } while (0)

static struct probes *probes_of(PyObject *self) {
  struct probes *probes = ((Probes *)self)->probes;
  if (!probes) PyErr_SetString(PyExc_ValueError, "the probes were not started");
  return probes;
}

static bool parse_kind(const char *text, enum probe_kind *kind) {
  for (int i = 0; i < PROBE_KIND_COUNT; i++) {
    if (strcmp(kind_labels[i], text) != 0) continue;
    *kind = (enum probe_kind)i;
    return true;
  }
  PyErr_Format(PyExc_ValueError, "unknown kind: %s", text);
  return false;
}

static int probes_py_init(PyObject *object, PyObject *args, PyObject *kwargs) {
  static char *keywords[] = {NULL};
  Probes *self = (Probes *)object;
  if (!PyArg_ParseTupleAndKeywords(args, kwargs, "", keywords)) return -1;
  if (self->probes) {
    PyErr_SetString(PyExc_ValueError, "the probes were started before");
    return -1;
  }
  struct fault fault;
  Py_BEGIN_ALLOW_THREADS fault = probes_start(&self->probes);
  Py_END_ALLOW_THREADS if (!fault.sentence) return 0;
  raise_fault(fault);
  return -1;
}

static void probes_py_dealloc(PyObject *object) {
  Probes *self = (Probes *)object;
  PyTypeObject *type = Py_TYPE(object);
  if (self->probes) {
    Py_BEGIN_ALLOW_THREADS probes_free(self->probes);
    Py_END_ALLOW_THREADS
  }
  freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
  release(object);
  Py_DECREF(type);
}

static PyObject *py_stop(PyObject *self, PyObject *unused) {
  (void)unused;
  struct probes *probes = probes_of(self);
  if (!probes) return NULL;
  Py_BEGIN_ALLOW_THREADS probes_stop(probes);
  Py_END_ALLOW_THREADS Py_RETURN_NONE;
}

static PyObject *py_event_fd(PyObject *self, PyObject *unused) {
  (void)unused;
  struct probes *probes = probes_of(self);
  return probes ? PyLong_FromLong(probes_event_fd(probes)) : NULL;
}

static PyObject *py_listen(PyObject *self, PyObject *args, PyObject *kwargs) {
  static char *keywords[] = {"fd", "kind", NULL};
  struct probes *probes = probes_of(self);
  const char *label;
  enum probe_kind kind;
  int fd;
  if (!probes || !PyArg_ParseTupleAndKeywords(args, kwargs, "is", keywords, &fd, &label) || !parse_kind(label, &kind))
    return NULL;
  CONTROL(probe_listen(probes, fd, kind));
}

static PyObject *py_unlisten(PyObject *self, PyObject *args, PyObject *kwargs) {
  static char *keywords[] = {"fd", NULL};
  struct probes *probes = probes_of(self);
  int fd;
  if (!probes || !PyArg_ParseTupleAndKeywords(args, kwargs, "i", keywords, &fd)) return NULL;
  CONTROL(probe_unlisten(probes, fd));
}

static PyObject *py_add(PyObject *self, PyObject *args, PyObject *kwargs) {
  static char *keywords[] = {"id", "kind", "key", "fd", "local", "remote", "interface", "least_hops", NULL};
  struct probes *probes = probes_of(self);
  struct probe_path path = {0};
  const char *label, *local, *remote;
  unsigned port;
  if (!probes || !PyArg_ParseTupleAndKeywords(args, kwargs, "O&sO&is(sO&)O&O&", keywords, to_u32, &path.id, &label,
                                              to_u32, &path.key, &path.socket, &local, &remote, to_u32, &port, to_u32,
                                              &path.interface, to_u32, &path.least_hops))
    return NULL;
  if (!parse_kind(label, &path.kind) || (*local && !parse_endpoint(local, 0, &path.local)) ||
      !parse_endpoint(remote, port, &path.remote))
    return NULL;
  CONTROL(probe_add(probes, &path));
}

static bool copy_octets(uint8_t *out, const char *from, Py_ssize_t length) {
  if (length > PROBE_OCTETS_MAX) {
    PyErr_Format(PyExc_ValueError, "more than %d octets", PROBE_OCTETS_MAX);
    return false;
  }
  memcpy(out, from, (size_t)length);
  return true;
}

static PyObject *py_arm(PyObject *self, PyObject *args, PyObject *kwargs) {
  static char *keywords[] = {"id",    "octets",       "shortest_ns", "longest_ns", "expected",
                             "alive", "detection_ns", "generation",  "at_once",    NULL};
  struct probes *probes = probes_of(self);
  struct probe_program program = {0};
  const char *octets, *expected, *alive;
  Py_ssize_t length, expected_length, alive_length;
  unsigned id;
  int at_once;
  if (!probes || !PyArg_ParseTupleAndKeywords(args, kwargs, "O&y#O&O&y#y#O&O&p", keywords, to_u32, &id, &octets,
                                              &length, to_u64, &program.shortest_ns, to_u64, &program.longest_ns,
                                              &expected, &expected_length, &alive, &alive_length, to_u64,
                                              &program.detection_ns, to_u32, &program.generation, &at_once))
    return NULL;
  if (alive_length > expected_length) {
    PyErr_SetString(PyExc_ValueError, "more octets of a mask than of what is expected");
    return NULL;
  }
  if (!copy_octets(program.octets, octets, length) || !copy_octets(program.expected, expected, expected_length) ||
      !copy_octets(program.alive, alive, alive_length))
    return NULL;
  program.length = (size_t)length;
  program.expected_length = (size_t)expected_length;
  program.at_once = at_once;
  CONTROL(probe_arm(probes, id, &program));
}

static PyObject *py_send(PyObject *self, PyObject *args, PyObject *kwargs) {
  static char *keywords[] = {"id", "octets", NULL};
  struct probes *probes = probes_of(self);
  const char *octets;
  Py_ssize_t length;
  unsigned id;
  if (!probes || !PyArg_ParseTupleAndKeywords(args, kwargs, "O&y#", keywords, to_u32, &id, &octets, &length))
    return NULL;
  CONTROL(probe_send(probes, id, (const uint8_t *)octets, (size_t)length));
}

static PyObject *py_remove(PyObject *self, PyObject *args, PyObject *kwargs) {
  static char *keywords[] = {"id", NULL};
  struct probes *probes = probes_of(self);
  unsigned id;
  if (!probes || !PyArg_ParseTupleAndKeywords(args, kwargs, "O&", keywords, to_u32, &id)) return NULL;
  CONTROL(probe_remove(probes, id));
}

/* Exactly `wanted` octets. */
static bool copy_exactly(uint8_t *out, size_t wanted, const char *from, Py_ssize_t length, const char *what) {
  if ((size_t)length != wanted) {
    PyErr_Format(PyExc_ValueError, "%s has %zu octets", what, wanted);
    return false;
  }
  memcpy(out, from, wanted);
  return true;
}

static bool copy_body(uint8_t *out, const char *from, Py_ssize_t length) {
  if (length <= BEAT_BODY_MAX) {
    memcpy(out, from, (size_t)length);
    return true;
  }
  PyErr_Format(PyExc_ValueError, "more than %d octets", BEAT_BODY_MAX);
  return false;
}

static bool copy_keys(struct beat_program *program, const char *from, Py_ssize_t length) {
  program->open_count = (size_t)length / BEAT_KEY_OCTETS;
  if (program->open_count <= BEAT_KEYS_MAX && (size_t)length % BEAT_KEY_OCTETS == 0) {
    memcpy(program->open, from, (size_t)length);
    return true;
  }
  PyErr_Format(PyExc_ValueError, "at most %d keys of %d octets", BEAT_KEYS_MAX, BEAT_KEY_OCTETS);
  return false;
}

static bool parse_beat(PyObject *args, PyObject *kwargs, uint32_t *path, struct beat_program *program) {
  static char *keywords[] = {"path", "fd",        "remote",      "prefix",     "body",    "seal",    "peer",
                             "open", "echoed_ns", "shortest_ns", "longest_ns", "hold_ns", "at_once", NULL};
  const char *remote, *prefix, *body, *seal, *peer, *open;
  Py_ssize_t prefix_length, body_length, seal_length, peer_length, open_length;
  unsigned port;
  int at_once;
  if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O&i(sO&)y#y#y#y#y#O&O&O&O&p", keywords, to_u32, path,
                                   &program->socket, &remote, to_u32, &port, &prefix, &prefix_length, &body,
                                   &body_length, &seal, &seal_length, &peer, &peer_length, &open, &open_length, to_u64,
                                   &program->echoed_ns, to_u64, &program->shortest_ns, to_u64, &program->longest_ns,
                                   to_u64, &program->hold_ns, &at_once))
    return false;
  program->length = (size_t)body_length;
  program->at_once = at_once;
  return parse_endpoint(remote, port, &program->remote) &&
         copy_exactly(program->prefix, BEAT_PREFIX, prefix, prefix_length, "a prefix") &&
         copy_exactly(program->seal, BEAT_KEY_OCTETS, seal, seal_length, "a key") &&
         copy_exactly(program->peer, BEAT_BOOT_OCTETS, peer, peer_length, "a boot identifier") &&
         copy_body(program->body, body, body_length) && copy_keys(program, open, open_length);
}

static PyObject *py_beat(PyObject *self, PyObject *args, PyObject *kwargs) {
  struct probes *probes = probes_of(self);
  struct beat_program program = {0};
  struct fault fault = NO_FAULT;
  uint32_t path;
  bool parsed = probes && parse_beat(args, kwargs, &path, &program);
  if (parsed) {
    Py_BEGIN_ALLOW_THREADS fault = probe_beat(probes, path, &program);
    Py_END_ALLOW_THREADS
  }
  explicit_bzero(&program, sizeof program);
  return parsed ? none_or_raise(fault) : NULL;
}

static PyObject *py_beat_once(PyObject *self, PyObject *args, PyObject *kwargs) {
  static char *keywords[] = {"path", "body", NULL};
  struct probes *probes = probes_of(self);
  const char *body;
  Py_ssize_t length;
  unsigned path;
  if (!probes || !PyArg_ParseTupleAndKeywords(args, kwargs, "O&y#", keywords, to_u32, &path, &body, &length))
    return NULL;
  CONTROL(probe_beat_once(probes, path, (const uint8_t *)body, (size_t)length));
}

static PyObject *py_beat_rest(PyObject *self, PyObject *args, PyObject *kwargs) {
  static char *keywords[] = {"path", NULL};
  struct probes *probes = probes_of(self);
  unsigned path;
  if (!probes || !PyArg_ParseTupleAndKeywords(args, kwargs, "O&", keywords, to_u32, &path)) return NULL;
  CONTROL(probe_beat_rest(probes, path));
}

static PyObject *news_row(const struct probe_news *news) {
  if (news->expired) return Py_BuildValue("(IIdO)", news->id, news->generation, (double)news->at_ns / 1e9, Py_None);
  return Py_BuildValue("(IIdy#)", news->id, news->generation, (double)news->at_ns / 1e9, (const char *)news->octets,
                       (Py_ssize_t)news->length);
}

static PyObject *py_news(PyObject *self, PyObject *unused) {
  (void)unused;
  struct probes *probes = probes_of(self);
  PyObject *list = probes ? PyList_New(0) : NULL;
  bool complete = list != NULL;
  struct probe_news *next;
  for (struct probe_news *news = complete ? probes_news(probes) : NULL; news; news = next) {
    next = news->next;
    if (complete) complete = append(list, news_row(news));
    free(news);
  }
  return list_or_null(list, complete);
}

static PyObject *py_statistics(PyObject *self, PyObject *unused) {
  (void)unused;
  struct probes *probes = probes_of(self);
  struct probe_statistics *rows = NULL;
  uint64_t refused[PROBE_REFUSAL_COUNT];
  size_t count = 0;
  struct fault fault;
  if (!probes) return NULL;
  Py_BEGIN_ALLOW_THREADS fault = probes_statistics(probes, &rows, &count, refused);
  Py_END_ALLOW_THREADS if (fault.sentence) return raise_fault(fault);
  PyObject *list = PyList_New(0), *tuple = PyTuple_New(PROBE_REFUSAL_COUNT);
  bool complete = list && tuple;
  for (size_t i = 0; i < count && complete; i++)
    complete = append(list, Py_BuildValue("(IKKKKd)", rows[i].id, (unsigned long long)rows[i].sent,
                                          (unsigned long long)rows[i].send_failed, (unsigned long long)rows[i].received,
                                          (unsigned long long)rows[i].told, (double)rows[i].heard_ns / 1e9));
  for (int i = 0; i < PROBE_REFUSAL_COUNT && complete; i++) {
    PyObject *value = PyLong_FromUnsignedLongLong(refused[i]);
    complete = value && PyTuple_SetItem(tuple, i, value) == 0;
  }
  free(rows);
  PyObject *both = complete ? PyTuple_Pack(2, list, tuple) : NULL;
  Py_XDECREF(list);
  Py_XDECREF(tuple);
  return both;
}

PyObject *probe_refusal_names(void) {
  PyObject *tuple = PyTuple_New(PROBE_REFUSAL_COUNT);
  for (Py_ssize_t i = 0; i < PROBE_REFUSAL_COUNT && tuple; i++) {
    PyObject *label = PyUnicode_FromString(refusal_labels[i]);
    if (!label || PyTuple_SetItem(tuple, i, label) < 0) Py_CLEAR(tuple);
  }
  return tuple;
}

#define METHOD(name)          {#name, py_##name, METH_NOARGS, NULL}
#define METHOD_KEYWORDS(name) {#name, (PyCFunction)(void (*)(void))py_##name, METH_VARARGS | METH_KEYWORDS, NULL}

static PyMethodDef probes_methods[] = {METHOD(event_fd),
                                       METHOD_KEYWORDS(listen),
                                       METHOD_KEYWORDS(unlisten),
                                       METHOD_KEYWORDS(add),
                                       METHOD_KEYWORDS(arm),
                                       METHOD_KEYWORDS(send),
                                       METHOD_KEYWORDS(remove),
                                       METHOD_KEYWORDS(beat),
                                       METHOD_KEYWORDS(beat_once),
                                       METHOD_KEYWORDS(beat_rest),
                                       METHOD(news),
                                       METHOD(statistics),
                                       METHOD(stop),
                                       {NULL, NULL, 0, NULL}};

static PyType_Slot probes_slots[] = {{Py_tp_init, (void *)probes_py_init},
                                     {Py_tp_dealloc, (void *)probes_py_dealloc},
                                     {Py_tp_methods, probes_methods},
                                     {0, NULL}};

static PyType_Spec probes_spec = {
    .name = "gateway._native.Probes",
    .basicsize = sizeof(Probes),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = probes_slots,
};

PyObject *probes_type(PyObject *module) {
  return PyType_FromModuleAndSpec(module, &probes_spec, NULL);
}
