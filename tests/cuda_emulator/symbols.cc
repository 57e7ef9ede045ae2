#include "tests/cuda_emulator/symbols.h"

#include <cxxabi.h>
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <unordered_map>

namespace cuda_emulator {

// A thread-local variable with a known symbol: the others are found by their distance to it.
constinit thread_local char symbol_anchor = 0;

namespace {

struct Variable {
  std::ptrdiff_t offset;  // from the anchor
  size_t bytes;
};

class Symbols {
 public:
  static const Symbols& Instance() {
    static const Symbols* symbols = new Symbols;
    return *symbols;
  }

  // The mangled name, or "".
  std::string Function(const void* address) const {
    const auto found = functions_.find(reinterpret_cast<uintptr_t>(address) - base_);
    return found == functions_.end() ? "" : found->second;
  }
  // By mangled name.
  const std::map<std::string, Variable>& thread_locals() const { return thread_locals_; }

 private:
  Symbols() {
    const int file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    struct stat status;
    if (file < 0 || fstat(file, &status) != 0) return;
    // Mapped for good: the names stay in it.
    void* mapping = mmap(nullptr, static_cast<size_t>(status.st_size), PROT_READ, MAP_PRIVATE, file, 0);
    close(file);
    if (mapping == MAP_FAILED) return;
    const char* bytes = static_cast<const char*>(mapping);
    dl_iterate_phdr(
        [](dl_phdr_info* info, size_t, void* base) {
          *static_cast<uintptr_t*>(base) = info->dlpi_addr;  // the program comes first
          return 1;
        },
        &base_);
    const auto* header = reinterpret_cast<const ElfW(Ehdr)*>(bytes);
    const auto* sections = reinterpret_cast<const ElfW(Shdr)*>(bytes + header->e_shoff);
    for (int i = 0; i < header->e_shnum; ++i) {
      if (sections[i].sh_type == SHT_SYMTAB) Read(bytes, sections[i], sections[sections[i].sh_link]);
    }
  }

  void Read(const char* bytes, const ElfW(Shdr) & table, const ElfW(Shdr) & strings) {
    const auto* symbols = reinterpret_cast<const ElfW(Sym)*>(bytes + table.sh_offset);
    const size_t count = table.sh_size / sizeof(ElfW(Sym));
    uintptr_t anchor = 0;
    for (size_t i = 0; i < count; ++i) {
      const char* name = bytes + strings.sh_offset + symbols[i].st_name;
      const int type = ELF64_ST_TYPE(symbols[i].st_info);
      if (type == STT_FUNC) functions_.emplace(symbols[i].st_value, name);
      if (type != STT_TLS) continue;
      if (std::strstr(name, "symbol_anchor") != nullptr) anchor = symbols[i].st_value;
      thread_locals_[name] = {static_cast<std::ptrdiff_t>(symbols[i].st_value), symbols[i].st_size};
    }
    for (auto& [name, variable] : thread_locals_) variable.offset -= static_cast<std::ptrdiff_t>(anchor);
  }

  uintptr_t base_ = 0;
  std::unordered_map<uintptr_t, const char*> functions_;
  std::map<std::string, Variable> thread_locals_;
};

}  // namespace

std::string KernelName(const void* kernel) {
  const std::string mangled = Symbols::Instance().Function(kernel);
  if (mangled.empty()) {
    char text[32];
    std::snprintf(text, sizeof(text), "%p", kernel);
    return text;
  }
  int status = 0;
  char* demangled = abi::__cxa_demangle(mangled.c_str(), nullptr, nullptr, &status);
  const std::string name = status == 0 ? demangled : mangled;
  std::free(demangled);
  return name;
}

std::vector<std::span<char>> SharedVariables(const void* kernel) {
  std::vector<std::span<char>> variables;
  const std::string mangled = Symbols::Instance().Function(kernel);
  if (mangled.compare(0, 2, "_Z") != 0) return variables;
  const std::string prefix = "_ZZ" + mangled.substr(2) + "E";  // of what is local to it
  const auto& all = Symbols::Instance().thread_locals();
  for (auto it = all.lower_bound(prefix); it != all.end() && it->first.compare(0, prefix.size(), prefix) == 0; ++it) {
    variables.emplace_back(&symbol_anchor + it->second.offset, it->second.bytes);
  }
  return variables;
}

}  // namespace cuda_emulator
