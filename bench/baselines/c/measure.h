/* What the librdkafka baselines share: the clock, CPU time, a histogram and the report. */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

static int64_t clock_ns(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* User and system time of the process. */
static int64_t cpu_ns(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (int64_t)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000000 +
           (int64_t)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1000;
}

/* Tells values apart to 1/64. */
struct histogram {
    uint64_t counts[64 * 64];
    uint64_t total;
};

static inline void histogram_add(struct histogram *histogram, uint64_t value) {
    int power = value < 64 ? -1 : 57 - __builtin_clzll(value);
    uint64_t index = value < 64 ? value : (uint64_t)(power + 1) * 64 + (value >> power) - 64;
    histogram->counts[index]++;
    histogram->total++;
}

static inline uint64_t histogram_at(const struct histogram *histogram, double quantile) {
    uint64_t rest = (uint64_t)(quantile * (double)histogram->total);
    for (uint64_t index = 0; index < 64 * 64; index++) {
        if (histogram->counts[index] > rest)
            return index < 64 ? index : (index % 64 + 64) << (index / 64 - 1);
        rest -= histogram->counts[index];
    }
    return 0;
}

struct reading {
    int taken;
    int64_t at_ns, cpu_ns, records;
};

/* Takes a reading once. */
static inline void read_meters(struct reading *into, int64_t records) {
    if (into->taken)
        return;
    *into = (struct reading){1, clock_ns(CLOCK_MONOTONIC), cpu_ns(), records};
}

static inline void report(const struct reading *before, const struct reading *after,
                   const struct histogram *latencies, int64_t acknowledged, int64_t errors,
                   const char *first_error) {
    double seconds = (double)(after->at_ns - before->at_ns) / 1e9;
    int64_t records = after->records - before->records;
    double cpu_us = (double)(after->cpu_ns - before->cpu_ns) / 1e3;
    printf("{\"client\":\"librdkafka\",\"seconds\":%.6f,\"records\":%lld,\"records_per_s\":%.1f,"
           "\"cpu_us_per_record\":%.6f,\"p50_us\":%.3f,\"p99_us\":%.3f,\"p999_us\":%.3f,"
           "\"acknowledged\":%lld,\"errors\":%lld,\"first_error\":",
           seconds, (long long)records, (double)records / seconds,
           records ? cpu_us / (double)records : 0.0, histogram_at(latencies, 0.5) / 1e3,
           histogram_at(latencies, 0.99) / 1e3, histogram_at(latencies, 0.999) / 1e3,
           (long long)acknowledged, (long long)errors);
    if (first_error)
        printf("\"%s\"}\n", first_error);
    else
        printf("null}\n");
}

/* The value of an option "--name value"; `other` where it is not given. */
static const char *option(int count, char **words, const char *name, const char *other) {
    for (int at = 1; at + 1 < count; at++)
        if (strcmp(words[at], name) == 0)
            return words[at + 1];
    return other;
}

static inline int has_flag(int count, char **words, const char *name) {
    for (int at = 1; at < count; at++)
        if (strcmp(words[at], name) == 0)
            return 1;
    return 0;
}

static void die(const char *what, const char *why) {
    fprintf(stderr, "%s: %s\n", what, why);
    exit(1);
}
