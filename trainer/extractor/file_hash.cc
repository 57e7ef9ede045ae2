#include "trainer/extractor/file_hash.h"

#include <openssl/evp.h>

#include <algorithm>
#include <memory>

#include "absl/strings/escaping.h"
#include "core/base/check.h"
#include "core/base/file.h"
#include "core/base/status_macros.h"

namespace shardit {

absl::StatusOr<std::string> Sha256OfFile(const std::string& path) {
  constexpr int64_t kPieceBytes = 1 << 20;
  ASSIGN_OR_RETURN(const RandomAccessFile file, RandomAccessFile::Open(path));
  const std::unique_ptr<EVP_MD_CTX, void (*)(EVP_MD_CTX*)> digest(EVP_MD_CTX_new(), EVP_MD_CTX_free);
  CHECK(digest != nullptr && EVP_DigestInit_ex(digest.get(), EVP_sha256(), nullptr) == 1) << "libcrypto has no SHA-256";
  std::string piece(static_cast<size_t>(std::min(file.size(), kPieceBytes)), '\0');
  for (int64_t done = 0; done < file.size();) {
    const int64_t bytes = std::min(file.size() - done, kPieceBytes);
    RETURN_IF_ERROR(file.ReadAt(done, piece.data(), bytes));
    CHECK_EQ(EVP_DigestUpdate(digest.get(), piece.data(), static_cast<size_t>(bytes)), 1) << "libcrypto";
    done += bytes;
  }
  std::string hash(static_cast<size_t>(EVP_MD_get_size(EVP_sha256())), '\0');
  CHECK_EQ(EVP_DigestFinal_ex(digest.get(), reinterpret_cast<unsigned char*>(hash.data()), nullptr), 1) << "libcrypto";
  return absl::BytesToHexString(hash);
}

}  // namespace shardit
