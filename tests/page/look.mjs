// Looks at the live page of a job as a person would, through a job that is killed and started again. It is told what was
// done to the job line by line, and says as JSON what it sees.
//   node look.mjs URL DIRECTORY-OF-SCREENSHOTS

import { createInterface } from "node:readline";

const { chromium } = await import(process.env.TIDEMILL_TEST_PLAYWRIGHT);
const [url, directory] = process.argv.slice(2);
const commands = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const WITHIN_MS = 60_000;

const browser = await chromium.launch({ executablePath: process.env.TIDEMILL_TEST_CHROMIUM, args: ["--no-sandbox"] });
const page = await browser.newPage({ viewport: { width: 1200, height: 900 } });
const complaints = [];
const asked = new Set();
page.on("pageerror", (error) => complaints.push(String(error)));
page.on("console", (message) => message.type() === "error" && complaints.push(message.text()));
page.on("dialog", (dialog) => { complaints.push(`dialog: ${dialog.message()}`); dialog.dismiss(); });
page.on("request", (request) => asked.add(new URL(request.url()).protocol === "data:" ? "data:" : new URL(request.url()).origin));

const connection = (text) => page.waitForFunction((text) => document.querySelector("#connection")?.textContent.includes(text), text, { timeout: WITHIN_MS });
const card = (name) => page.locator(`article[data-query="${name}"]`);

// All figures of a card, by name.
async function figures(name, within) {
  const pairs = await card(name).locator(`${within} > div`).evaluateAll((groups) => groups.map((group) => [group.children[0].textContent, group.children[1].textContent]));
  return Object.fromEntries(pairs);
}

async function seen(step) {
  await page.screenshot({ path: `${directory}/${step}.png`, fullPage: true });
  const lines = await page.locator("#log li").allTextContents();
  const title = await page.title();
  const stored = await figures("job.stored", ".main-figures");
  const forecast = await figures("job.stored", ".forecast .figures");
  const ledger = await card("job.stored").locator(".legend li").allTextContents();
  const cells = await card("job.raw").locator(".scroll tbody tr").first().locator("td").allTextContents();
  const charts = await page.locator(".chart canvas").count();
  const images = await page.locator("img").count();
  // What was drawn: a chart without a line is of one colour.
  const drawn = await card("job.stored").locator(".forecasts canvas").evaluate((canvas) => {
    const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
    const colours = new Set();
    for (let at = 0; at < pixels.length; at += 4) if (pixels[at + 3] === 255) colours.add(`${pixels[at]},${pixels[at + 1]},${pixels[at + 2]}`);
    return colours.size;
  });
  const said = { step, title, stored, forecast, ledger, cells, charts, images, drawn, log: lines, asked: [...asked], complaints: complaints.splice(0) };
  console.log(JSON.stringify(said));
}

try {
  await page.goto(url);
  await connection("live");
  for await (const command of commands) {
    const [step, ...rest] = command.split(" ");
    if (step === "read") {
      // Until the page says that all of it is read.
      await page.waitForFunction((count) => document.querySelector('article[data-query="job.raw"] .legend')?.textContent.includes(`written ${count}`), rest[0], { timeout: WITHIN_MS });
      await page.waitForFunction(() => document.querySelector('article[data-query="job.stored"] .forecast .figures')?.textContent.includes("version"), null, { timeout: WITHIN_MS });
      // The newest rows are opened with a click.
      const details = card("job.raw").locator("details:not([open]) summary");
      if (await details.count()) await details.click();
      await seen(rest[1]);
    } else if (step === "killed") {
      await connection("connection lost");
      // That it cannot connect is no complaint.
      complaints.length = 0;
      console.log(JSON.stringify({ step, text: await page.textContent("#connection") }));
    } else if (step === "stopped") {
      await connection("the job has ended");
      console.log(JSON.stringify({ step, text: await page.textContent("#connection") }));
      break;
    }
  }
} catch (error) {
  await page.screenshot({ path: `${directory}/failure.png`, fullPage: true }).catch(() => {});
  console.log(JSON.stringify({ step: "failure", error: String(error), complaints }));
  process.exitCode = 1;
}
await browser.close();
