// Instructions that a kernel takes, counted by stepping through one call of it: for AVX-512 and AMX, which valgrind
// doesn't know, and for virtual machines, which have no counters.
//
//     cc -O2 -o target/count benches/instructions/count.c
//     cargo build --release -p medgemma-kernels --example gemm_bench
//     target/count SYMBOL target/release/examples/gemm_bench 1 qkv Q4_0 1
//
// SYMBOL is a part of the demangled name of the functions to count, such as `simd::avx512::run`. Every instance of one
// that is called is stepped through once, at its second call (the first may set up what later ones find). For each:
// its address (`addr2line -fie PROGRAM ADDRESS` names the kernel that was inlined), and its instructions from entry to
// return. Only for x86-64 Linux.
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/personality.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MOST = 4096, CALLS = 2 };
static struct entry { unsigned long address, file_address; long byte; int calls; } entries[MOST];
static int count;
static pid_t child;

static void fail(const char * what) { fprintf(stderr, "count: %s: %s\n", what, errno ? strerror(errno) : "unexpected"); exit(1); }

static void write_byte(unsigned long at, unsigned char byte) {
    errno = 0;
    long word = ptrace(PTRACE_PEEKTEXT, child, at, NULL);
    if (errno) fail("reading the program's memory");
    word = (word & ~0xffL) | byte;
    if (ptrace(PTRACE_POKETEXT, child, at, word) < 0) fail("writing the program's memory");
}

// The functions' addresses in the file, as `nm` tells them.
static void find(const char * program, const char * symbol) {
    char command[4096], line[4096];
    if (snprintf(command, sizeof command, "nm -C --defined-only '%s'", program) >= (int)sizeof command) fail("a long path");
    FILE * names = popen(command, "r");
    if (!names) fail("nm");
    while (fgets(line, sizeof line, names)) {
        unsigned long address;
        char kind;
        if (sscanf(line, "%lx %c", &address, &kind) == 2 && (kind == 't' || kind == 'T') && strstr(line, symbol) && count < MOST)
            entries[count++].file_address = address;
    }
    pclose(names);
    if (!count) { fprintf(stderr, "count: no function of %s has %s in its name\n", program, symbol); exit(1); }
}

// Where the file is loaded.
static unsigned long base(const char * program) {
    char path[64], line[4096], *full = realpath(program, NULL);
    snprintf(path, sizeof path, "/proc/%d/maps", child);
    FILE * maps = fopen(path, "r");
    unsigned long start = 0;
    while (maps && full && fgets(line, sizeof line, maps))
        if (strstr(line, full)) { sscanf(line, "%lx", &start); break; }
    if (maps) fclose(maps);
    free(full);
    if (!start) fail("finding where the program is loaded");
    return start;
}

static pid_t next_stop(int * status) {
    pid_t who = waitpid(-1, status, __WALL);
    if (who < 0) fail("waiting for the program");
    return who;
}

// Steps through the call that has just begun in thread `who`, until it has returned.
static unsigned long step(pid_t who) {
    struct user_regs_struct registers;
    if (ptrace(PTRACE_GETREGS, who, NULL, &registers) < 0) fail("reading registers");
    unsigned long stack = registers.rsp, steps = 0;
    int status;
    do {
        if (ptrace(PTRACE_SINGLESTEP, who, NULL, NULL) < 0) fail("stepping");
        if (waitpid(who, &status, __WALL) < 0 || !WIFSTOPPED(status)) fail("the program ended within a call");
        if (ptrace(PTRACE_GETREGS, who, NULL, &registers) < 0) fail("reading registers");
        steps++;
    } while (registers.rsp <= stack);
    return steps;
}

int main(int argc, char ** argv) {
    if (argc < 3) { fprintf(stderr, "usage: count SYMBOL PROGRAM [ARGUMENT…]\n"); return 2; }
    find(argv[2], argv[1]);
    child = fork();
    if (child == 0) {
        ptrace(PTRACE_TRACEME, 0, NULL, NULL);
        execv(argv[2], argv + 2);
        _exit(127);
    }
    int status;
    next_stop(&status);
    if (!WIFSTOPPED(status)) fail("starting the program");
    unsigned long start = base(argv[2]);
    for (int i = 0; i < count; i++) {
        entries[i].address = start + entries[i].file_address;
        errno = 0;
        entries[i].byte = ptrace(PTRACE_PEEKTEXT, child, entries[i].address, NULL) & 0xff;
        if (errno) fail("reading the program's memory");
        write_byte(entries[i].address, 0xcc);
    }
    ptrace(PTRACE_SETOPTIONS, child, NULL, PTRACE_O_TRACECLONE | PTRACE_O_EXITKILL);
    ptrace(PTRACE_CONT, child, NULL, NULL);
    for (;;) {
        pid_t who = next_stop(&status);
        if (WIFEXITED(status) || WIFSIGNALED(status)) {
            if (who == child) return 0;
            continue;
        }
        int signal = WSTOPSIG(status);
        if (signal == SIGTRAP && status >> 16 == 0) {
            struct user_regs_struct registers;
            if (ptrace(PTRACE_GETREGS, who, NULL, &registers) < 0) fail("reading registers");
            for (int i = 0; i < count; i++) {
                if (entries[i].address != registers.rip - 1) continue;
                registers.rip--;
                ptrace(PTRACE_SETREGS, who, NULL, &registers);
                write_byte(entries[i].address, (unsigned char)entries[i].byte);
                if (++entries[i].calls == CALLS) {
                    printf("0x%lx %lu\n", entries[i].file_address, step(who));
                    fflush(stdout);
                } else {
                    // Past the first instruction, then the trap is laid again.
                    ptrace(PTRACE_SINGLESTEP, who, NULL, NULL);
                    waitpid(who, &status, __WALL);
                    write_byte(entries[i].address, 0xcc);
                }
            }
            signal = 0;
        } else if (signal == SIGTRAP || signal == SIGSTOP) {
            signal = 0;
        }
        ptrace(PTRACE_CONT, who, NULL, signal);
    }
}
