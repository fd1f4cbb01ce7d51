/* Statistics as Python objects: what module.c returns, row by row (gateway/_native.pyi). */
#include "rows.h"

static const char *const drop_labels[] = {
#define DROP_LABEL(name, label, help) label,
    FOREACH_DROP_REASON(DROP_LABEL)
#undef DROP_LABEL
};

static const char *const stage_labels[] = {
#define STAGE_LABEL(name, label, help) label,
    FOREACH_STAGE(STAGE_LABEL)
#undef STAGE_LABEL
};

static PyObject *labels_tuple(const char *const *labels, Py_ssize_t count) {
  PyObject *tuple = PyTuple_New(count);
  for (Py_ssize_t i = 0; i < count && tuple; i++) {
    PyObject *label = PyUnicode_FromString(labels[i]);
    if (!label || PyTuple_SetItem(tuple, i, label) < 0) Py_CLEAR(tuple);
  }
  return tuple;
}

static PyObject *drop_row(const struct drop_row *row) {
  return Py_BuildValue("(IsK)", row->connection, drop_labels[row->reason], (unsigned long long)row->packets);
}

PyObject *drop_list(const struct drop_row *rows, size_t count) {
  PyObject *list = PyList_New(0);
  bool complete = list != NULL;
  for (size_t i = 0; i < count && complete; i++)
    complete = append(list, drop_row(&rows[i]));
  return list_or_null(list, complete);
}

PyObject *drop_names(void) {
  return labels_tuple(drop_labels, DROP_REASON_COUNT);
}

PyObject *stage_names(void) {
  return labels_tuple(stage_labels, STAGE_COUNT);
}

PyObject *sa_row(const struct sa_statistics *row) {
  return Py_BuildValue(
      "{s:s,s:I,s:I,s:K,s:K,s:K,s:d,s:K,s:K,s:K}", "direction", row->inbound ? "in" : "out", "connection",
      row->connection, "spi", row->spi, "packets", (unsigned long long)row->packets, "octets",
      (unsigned long long)row->octets, "sequence", (unsigned long long)row->sequence, "last_used",
      (double)row->last_used_ns / 1e9, "replay_drops", (unsigned long long)row->replay_drops, "integrity_failures",
      (unsigned long long)row->integrity_failures, "selector_drops", (unsigned long long)row->selector_drops);
}

/* The same in the same order, for the one who reads many each second. */
PyObject *sa_tuple(const struct sa_statistics *row) {
  return Py_BuildValue("(sIIKKKdKKK)", row->inbound ? "in" : "out", row->connection, row->spi,
                       (unsigned long long)row->packets, (unsigned long long)row->octets,
                       (unsigned long long)row->sequence, (double)row->last_used_ns / 1e9,
                       (unsigned long long)row->replay_drops, (unsigned long long)row->integrity_failures,
                       (unsigned long long)row->selector_drops);
}

PyObject *sa_list(const struct sa_statistics *rows, size_t count, PyObject *(*row)(const struct sa_statistics *)) {
  PyObject *list = PyList_New(0);
  bool complete = list != NULL;
  for (size_t i = 0; i < count && complete; i++)
    complete = append(list, row(&rows[i]));
  return list_or_null(list, complete);
}

/* Puts a new reference into the dictionary and drops it; false when either failed. */
static bool put(PyObject *dictionary, const char *name, PyObject *value) {
  bool done = value && PyDict_SetItemString(dictionary, name, value) == 0;
  Py_XDECREF(value);
  return done;
}

static bool put_count(PyObject *dictionary, const char *name, uint64_t value) {
  return put(dictionary, name, PyLong_FromUnsignedLongLong(value));
}

static PyObject *burst_sizes(const struct burst_statistics *bursts) {
  PyObject *tuple = PyTuple_New(BURST_BUCKETS);
  for (Py_ssize_t i = 0; i < BURST_BUCKETS && tuple; i++) {
    PyObject *count = PyLong_FromUnsignedLongLong(bursts->sizes[i]);
    if (!count || PyTuple_SetItem(tuple, i, count) < 0) Py_CLEAR(tuple);
  }
  return tuple;
}

static PyObject *stage_cycles(const struct worker_statistics *row) {
  PyObject *stages = PyDict_New();
  bool complete = stages != NULL;
  for (int i = 0; i < STAGE_COUNT && complete; i++)
    complete = put_count(stages, stage_labels[i], row->cycles[i]);
  return list_or_null(stages, complete);
}

PyObject *worker_row(const struct worker_statistics *row) {
  const struct {
    const char *name;
    uint64_t value;
  } counts[] = {{"ticks", row->ticks},
                {"empty_polls", row->empty_polls},
                {"tun_reads", row->tun_reads},
                {"tun_writes", row->tun_writes},
                {"udp_reads", row->udp_reads},
                {"udp_sends", row->udp_sends},
                {"packet_sends", row->packet_sends},
                {"packets_full", row->packets_full},
                {"packets_refused", row->packets_refused},
                {"packets_out", row->out.packets},
                {"packets_in", row->in.packets},
                {"cpu_ns", row->cpu_ns},
                {"socket_queue_octets", row->socket_queue_octets},
                {"socket_drops", row->socket_drops},
                {"idle", row->idle}};
  PyObject *dictionary = PyDict_New();
  bool complete = dictionary != NULL;
  for (size_t i = 0; i < sizeof counts / sizeof *counts && complete; i++)
    complete = put_count(dictionary, counts[i].name, counts[i].value);
  complete = complete && put(dictionary, "bursts_out", burst_sizes(&row->out));
  complete = complete && put(dictionary, "bursts_in", burst_sizes(&row->in));
  complete = complete && put(dictionary, "cycles", stage_cycles(row));
  return list_or_null(dictionary, complete);
}
